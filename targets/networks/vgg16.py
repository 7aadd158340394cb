"""VGG16 with batch normalisation, as the GMI and KEDMI protocol uses it at 64x64."""

from __future__ import annotations

from torch import Tensor, nn

from mibench.api import ClassifierOutput, MibenchError

from .width import scaled

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; each stage ends with a max-pool


def check_size(size: int) -> None:
    """Refuse a size that five halvings do not divide."""
    if size < 32 or size % 32:
        raise MibenchError(f"VGG16 halves its images five times: size must be a multiple of 32, got {size}")


def convolutions(width: float) -> tuple[nn.Sequential, int]:
    """The convolutions of VGG-16-BN with torchvision's numbering, and the channels they end with."""
    layers: list[nn.Module] = []
    channels = 3
    for stage_channels, count in STAGES:
        for _ in range(count):
            out = scaled(stage_channels, width)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers), channels


def initialise(layers: nn.Sequential) -> None:
    """torchvision's initial weights. Called last, so that what a seed gives does not depend on how this file is cut."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class VGG16(nn.Module):
    """Convolutions of VGG-16-BN, then BatchNorm1d, then one linear layer.

    Images ``(N, 3, size, size)`` in [0, 1] give features ``(N, D)`` *after* the BatchNorm1d and raw logits
    ``(N, num_classes)``; ``D`` is 2048 at width 1 and 64 pixels. State-dict keys are those of the released
    checkpoints (``feature.0.weight`` ... ``fc_layer.bias``).

    Args:
        num_classes: number of logits.
        width: multiplies every channel count, features included.
        size: side of the images in pixels, a multiple of 32.
    """

    def __init__(self, num_classes: int, width: float = 1.0, *, size: int = 64) -> None:
        super().__init__()
        check_size(size)
        self.feature, channels = convolutions(width)
        features = channels * (size // 32) ** 2
        self.bn = nn.BatchNorm1d(features)
        self.bn.bias.requires_grad_(False)  # part of the published architecture, not of its training
        self.fc_layer = nn.Linear(features, num_classes)
        initialise(self.feature)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, num_classes)``."""
        features = self.bn(self.feature(images).flatten(1))
        return ClassifierOutput(features, self.fc_layer(features))
