"""FaceNet at 112x112: the evaluation classifier. Only the referee loads it; no attack can name it as its target."""

from __future__ import annotations

from torch import Tensor, nn

from mibench.api import ClassifierOutput
from mibench.targets.networks.ir import IR50, Backbone, initialise


class FaceNet112(nn.Module):
    """IR-50 with its output layer inside the backbone, 44.1 M parameters at width 1 and 1000 classes.

    Images ``(N, 3, size, size)`` in [0, 1] give features ``(N, D)`` (the space of KNN distances) and raw logits
    ``(N, num_classes)``; ``D`` is 512 at width 1.
    """

    def __init__(self, num_classes: int, width: float = 1.0, dropout: float = 0.5, *, size: int = 112) -> None:
        super().__init__()
        self.feature = Backbone(IR50, width, size=size, embedding=True, dropout=dropout)
        self.fc_layer = nn.Linear(self.feature.channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, num_classes)``."""
        features = self.feature(images)
        return ClassifierOutput(features, self.fc_layer(features))
