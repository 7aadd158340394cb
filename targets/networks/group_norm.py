"""The 64-pixel targets with group norm in the place of batch norm, as DP-SGD needs them.

Batch norm mixes the samples of a batch, so that no sample has a gradient of its own. Nothing works in place either:
hooks that compute gradients per sample do not bear it.
"""

from __future__ import annotations

import math

from torch import nn

from .facenet64 import FaceNet64
from .ir152 import IR152
from .vgg16 import VGG16

GROUPS = 32
LEAST = 4  # channels of a vector in a group: groups of one would erase it


def groups_of(channels: int, *, vectors: bool) -> int:
    """Groups of a norm: the greatest common divisor of 32 and its channels, fewer of them for narrow vectors."""
    groups = math.gcd(GROUPS, channels)
    while vectors and groups > 1 and channels // groups < LEAST:
        groups //= 2
    return groups


def without_batch_norm(network: nn.Module) -> None:
    """Replace every batch norm by a group norm, and let activations make copies; in place.

    A bias that the published network does not train stays untrained.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                groups = groups_of(child.num_features, vectors=isinstance(child, nn.BatchNorm1d))
                norm = nn.GroupNorm(groups, child.num_features, eps=child.eps)
                norm.bias.requires_grad_(child.bias.requires_grad)
                setattr(module, name, norm)
            elif isinstance(child, nn.ReLU):
                child.inplace = False


class VGG16GN(VGG16):
    """VGG16 with group norm; same inputs, outputs and features."""

    def __init__(self, num_classes: int, width: float = 1.0, *, size: int = 64) -> None:
        super().__init__(num_classes, width, size=size)
        without_batch_norm(self)


class IR152GN(IR152):
    """IR152 with group norm; same inputs, outputs and features."""

    def __init__(self, num_classes: int, width: float = 1.0, dropout: float = 0.5, *, size: int = 64) -> None:
        super().__init__(num_classes, width, dropout, size=size)
        without_batch_norm(self)


class FaceNet64GN(FaceNet64):
    """FaceNet64 with group norm; same inputs, outputs and features."""

    def __init__(self, num_classes: int, width: float = 1.0, dropout: float = 0.5, *, size: int = 64) -> None:
        super().__init__(num_classes, width, dropout, size=size)
        without_batch_norm(self)
