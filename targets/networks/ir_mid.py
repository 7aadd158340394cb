"""IR152 and FaceNet64 with the variational bottleneck of MID on their embedding, as the code of KEDMI has it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mibench.api import ClassifierOutput

from . import ir
from .bottleneck import Bottlenecked, code


class IRMIDClassifier(Bottlenecked, ir.IRClassifier):
    """Backbone, output layer, a linear layer that gives mean and spread of a code, a linear classifier of the code.

    Images ``(N, 3, size, size)`` in [0, 1] give features ``(N, D)``, the embedding, and raw logits
    ``(N, num_classes)``. ``D`` is 512 at width 1, and the code has ``D / 2`` coordinates.

    Args:
        num_classes: number of logits.
        width: multiplies every channel count, features included.
        dropout: rate in the output layer.
        size: side of the images in pixels.
        sample: draw the code in evaluation as well.
    """

    def __init__(
        self, num_classes: int, width: float = 1.0, dropout: float = 0.5, *, size: int = 64, sample: bool = False
    ) -> None:
        super().__init__(num_classes, width, dropout, size=size)
        features = self.feature.channels
        self.st_layer = nn.Linear(features, features)
        self.fc_layer = nn.Linear(features // 2, num_classes)
        self.sample = sample
        for layer in (self.st_layer, self.fc_layer):
            ir.initialise(layer)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, num_classes)``."""
        features = self.output_layer(self.feature(images))
        drawn = code(self.st_layer(features), drawn=self.training or self.sample)
        return ClassifierOutput(features, self.fc_layer(drawn))


class IR152MID(IRMIDClassifier):
    """IR152 with MID's bottleneck."""

    units = ir.IR152
    not_trained: ClassVar[str | None] = "train ir152 with --defence mid, which adds the loss of its bottleneck"


class FaceNet64MID(IRMIDClassifier):
    """FaceNet64 with MID's bottleneck."""

    units = ir.IR50
    not_trained: ClassVar[str | None] = "train facenet64 with --defence mid, which adds the loss of its bottleneck"
