"""VGG16 with the variational bottleneck of MID (Wang et al., arXiv 2009.05241), as the BiDO study released it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import ClassifierOutput, Network

from .vgg16 import check_size, convolutions, initialise

SHIFT = 5.0  # std = softplus(s - 5): small at the beginning of the training


class VGG16MID(Network, nn.Module):
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
    """

    only_imported: ClassVar[str | None] = "its training needs the loss of MID, which no recipe here has"

    def __init__(self, num_classes: int, width: float = 1.0, *, size: int = 64, sample: bool = False) -> None:
        super().__init__()
        check_size(size)
        self.feature, channels = convolutions(width)
        features = channels * (size // 32) ** 2
        self.st_layer = nn.Linear(features, features)
        self.fc_layer = nn.Linear(features // 2, num_classes)
        self.sample = sample
        initialise(self.feature)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, num_classes)``."""
        features = self.feature(images).flatten(1)
        mean, spread = self.st_layer(features).chunk(2, dim=1)
        code = mean
        if self.training or self.sample:
            code = mean + nn.functional.softplus(spread - SHIFT) * torch.randn_like(mean)
        return ClassifierOutput(features, self.fc_layer(code))
