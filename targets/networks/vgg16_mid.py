"""VGG16 with the variational bottleneck of MID (Wang et al., arXiv 2009.05241), as the BiDO study released it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mibench.api import ClassifierOutput

from .bottleneck import Bottlenecked, code
from .vgg16 import check_size, convolutions, initialise


class VGG16MID(Bottlenecked):
    """Convolutions, a linear layer that gives mean and spread of a code, and a linear classifier of the code.

    Images ``(N, 3, size, size)`` in [0, 1] give features ``(N, D)``, the flattened convolutions, and raw logits
    ``(N, num_classes)``. The code has ``D / 2`` coordinates: 1,024 at width 1 and 64 pixels.

    The reference draws its code in evaluation too, so it answers one image differently each time. Here evaluation
    takes the mean, unless ``sample`` is set: then two runs of one command differ, and a resumed one from a whole one.

    Args:
        num_classes: number of logits.
        width: multiplies every channel count, features included.
        size: side of the images in pixels, a multiple of 32.
        sample: draw the code in evaluation as well.
        batch_norm: keep VGG16's BatchNorm1d before the bottleneck, as the MIA toolbox does; the features are after it.
    """

    not_trained: ClassVar[str | None] = "train vgg16 with --defence mid, which adds the loss of its bottleneck"

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        *,
        size: int = 64,
        sample: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_size(size)
        self.feature, channels = convolutions(width)
        features = channels * (size // 32) ** 2
        if batch_norm:
            self.bn = nn.BatchNorm1d(features)
            self.bn.bias.requires_grad_(False)  # as in VGG16
        self.st_layer = nn.Linear(features, features)
        self.fc_layer = nn.Linear(features // 2, num_classes)
        self.sample, self.batch_norm = sample, batch_norm
        initialise(self.feature)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, num_classes)``."""
        features = self.feature(images).flatten(1)
        if self.batch_norm:
            features = self.bn(features)
        drawn = code(self.st_layer(features), drawn=self.training or self.sample)
        return ClassifierOutput(features, self.fc_layer(drawn))
