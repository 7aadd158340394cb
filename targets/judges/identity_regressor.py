"""Reads the ground-truth identity vector off an image. Only the referee uses it: for the true identity error."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mibench.api import MibenchError
from mibench.targets.networks.width import scaled

STEM = 64
STAGES = (64, 128, 256, 512)  # channels at 1/2, 1/4, 1/8 and 1/16 of the side
HIDDEN = 512


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves its input by average pooling where ``halve`` says so."""

    def __init__(self, channels: int, depth: int, *, halve: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if halve else nn.Identity()
        self.shortcut = nn.Conv2d(channels, depth, 1, bias=False) if channels != depth else nn.Identity()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, depth, 3, padding=1, bias=False),
            nn.BatchNorm2d(depth),
            nn.ReLU(),
            nn.Conv2d(depth, depth, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to ``(N, depth, H, W)``, or half of H and W."""
        maps = self.pool(maps)
        residual: Tensor = self.residual(maps)
        skipped: Tensor = self.shortcut(maps)
        return residual + skipped


class IdentityRegressor(nn.Module):
    """Images ``(N, 3, size, size)`` in [0, 1] to identity vectors ``(N, identity_dim)`` in [0, 1].

    A pre-activation residual network. Its last maps are flattened, not averaged: where eyes and mouth lie is part of
    an identity.

    Args:
        identity_dim: coordinates of an identity.
        width: multiplies every channel count and the hidden layer.
        size: side of the images in pixels, 16 or more.
    """

    def __init__(self, identity_dim: int, width: float = 0.25, *, size: int = 64) -> None:
        super().__init__()
        if size < 16:
            raise MibenchError(f"the identity regressor takes images of 16 pixels or more, got {size}")
        stem = scaled(STEM, width)
        self.stem = nn.Conv2d(3, stem, 5, stride=2, padding=2, bias=False)
        blocks: list[nn.Module] = []
        channels = stem
        side = math.ceil(size / 2)
        for index, stage in enumerate(STAGES):
            depth = scaled(stage, width)
            blocks.append(ResidualBlock(channels, depth, halve=index > 0))
            channels = depth
            side = math.ceil(side / 2) if index > 0 else side
        self.body = nn.Sequential(*blocks)
        hidden = scaled(HIDDEN, width)
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels * side**2, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, identity_dim),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Identity vectors ``(N, identity_dim)``."""
        vectors: Tensor = self.head(self.body(self.stem(images)))
        return vectors
