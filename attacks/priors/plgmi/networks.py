"""The networks of PLG-MI's conditional GAN: residual generator and projection discriminator, of 64 x 64 images.

Module names are those of the released checkpoints. Legend: N images, Z noise dimension, K classes, c channels next to
the image (64 as published).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

SIZE = 64  # pixels; four doublings of 4 x 4


def channels(width: float) -> int:
    """``c``: 64 at ``width`` 1."""
    return max(1, round(64 * width))


class ConditionalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with a scale and a shift for each class."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, affine=False)
        self.weights = nn.Embedding(num_classes, features)
        self.biases = nn.Embedding(num_classes, features)
        nn.init.ones_(self.weights.weight)
        nn.init.zeros_(self.biases.weight)

    def of_classes(self, x: Tensor, y: Tensor) -> Tensor:
        """Features ``(N, C, H, W)`` of images of classes ``(N,)``, normalised, scaled and shifted."""
        scale, shift = (embedding(y)[:, :, None, None] for embedding in (self.weights, self.biases))
        normed: Tensor = scale * self(x) + shift
        return normed


class GeneratorBlock(nn.Module):
    """Doubles the side of features; a residual of two convolutions beside a 1 x 1 shortcut."""

    def __init__(self, into: int, out: int, num_classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(into, out, 3, padding=1)
        self.c2 = nn.Conv2d(out, out, 3, padding=1)
        self.b1 = ConditionalBatchNorm(into, num_classes)
        self.b2 = ConditionalBatchNorm(out, num_classes)
        self.c_sc = nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Features ``(N, into, H, W)`` to ``(N, out, 2 H, 2 W)``."""
        h = self.c1(_doubled(self.b1.of_classes(x, y).relu()))
        h = self.c2(self.b2.of_classes(h, y).relu())
        out: Tensor = h + self.c_sc(_doubled(x))
        return out


class Generator(nn.Module):
    """Noise ``(N, Z)`` and classes ``(N,)`` to images ``(N, 3, 64, 64)`` in [-1, 1], which are shown as they are.

    Trained on images in [0, 1], it learns to stay mostly in there: nothing rescales what it makes.
    """

    def __init__(self, *, num_classes: int, z_dim: int = 128, features: int = 64) -> None:
        super().__init__()
        c = features
        self.l1 = nn.Linear(z_dim, 16 * c * 4 * 4)
        self.block2 = GeneratorBlock(16 * c, 8 * c, num_classes)
        self.block3 = GeneratorBlock(8 * c, 4 * c, num_classes)
        self.block4 = GeneratorBlock(4 * c, 2 * c, num_classes)
        self.block5 = GeneratorBlock(2 * c, c, num_classes)
        self.b6 = nn.BatchNorm2d(c)
        self.conv6 = nn.Conv2d(c, 3, 1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Images of noise and classes."""
        h = self.l1(z).view(len(z), -1, 4, 4)
        for block in (self.block2, self.block3, self.block4, self.block5):
            h = block(h, y)
        images: Tensor = self.conv6(self.b6(h).relu()).tanh()
        return images


class DiscriminatorBlock(nn.Module):
    """Halves the side of features; spectral normalisation everywhere.

    Args:
        into, out: channels.
        first: the block at the image, which applies no ReLU to its input and pools it before the shortcut.
    """

    def __init__(self, into: int, out: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        hidden = out if first else into
        self.c1 = _normed(nn.Conv2d(into, hidden, 3, padding=1), gain=math.sqrt(2))
        self.c2 = _normed(nn.Conv2d(hidden, out, 3, padding=1), gain=math.sqrt(2))
        self.c_sc = _normed(nn.Conv2d(into, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(N, into, H, W)`` to ``(N, out, H / 2, W / 2)``."""
        h = self.c2(self.c1(x if self.first else x.relu()).relu())
        shortcut = self.c_sc(_halved(x)) if self.first else _halved(self.c_sc(x))
        out: Tensor = shortcut + _halved(h)
        return out


class Discriminator(nn.Module):
    """Images ``(N, 3, 64, 64)`` and their classes ``(N,)`` to scores ``(N, 1)``, higher is more realistic.

    A projection discriminator (Miyato and Koyama, 2018): ``l6(h) + <l_y[y], h>``. Each forward pass in train mode takes
    a step of the power iteration behind its spectral norms.
    """

    def __init__(self, *, num_classes: int, features: int = 64) -> None:
        super().__init__()
        c = features
        self.block1 = DiscriminatorBlock(3, c, first=True)
        self.block2 = DiscriminatorBlock(c, 2 * c)
        self.block3 = DiscriminatorBlock(2 * c, 4 * c)
        self.block4 = DiscriminatorBlock(4 * c, 8 * c)
        self.block5 = DiscriminatorBlock(8 * c, 16 * c)
        self.l6 = _normed(nn.Linear(16 * c, 1))
        self.l_y = _normed(nn.Embedding(num_classes, 16 * c))

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Scores of images; without classes, how real they look as images of any."""
        h = images
        for block in (self.block1, self.block2, self.block3, self.block4, self.block5):
            h = block(h)
        h = h.relu().sum(dim=(2, 3))
        scores: Tensor = self.l6(h)
        return scores if y is None else scores + (self.l_y(y) * h).sum(dim=1, keepdim=True)


def _normed(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    nn.init.xavier_uniform_(weight, gain=gain)
    return spectral_norm(layer)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _halved(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2)
