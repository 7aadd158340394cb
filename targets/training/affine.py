"""Random crop, flip and rotation of every image of a batch, differentiable in the images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CROP = (0.8, 1.0)  # area of a square crop
DEGREES = 30.0  # largest rotation, either way
PROBABILITY = 0.5  # of each of the three, independently


def crop_flip_rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop and resize, then mirror, then rotate, each with probability 1/2; where a rotation uncovers nothing, black.

    The three are one map of coordinates: pixels are interpolated once (bilinear) and on the images' device.

    Args:
        images: ``(B, C, S, S)``; gradients flow to them.
        generator: on the CPU.

    Returns:
        ``(B, C, S, S)``.
    """
    count, _, side, _ = images.shape
    drawn = torch.rand(7, count, 1, 1, generator=generator)
    applied = drawn[:3] < PROBABILITY
    scale = torch.where(applied[0], (CROP[0] + (CROP[1] - CROP[0]) * drawn[3]).sqrt(), 1.0)
    mirror = torch.where(applied[1], -1.0, 1.0)
    angle = torch.where(applied[2], math.radians(DEGREES) * (2 * drawn[4] - 1), 0.0)
    centre = (1 - scale) * (2 * drawn[5:] - 1)  # (2, B, 1, 1), of the crop, in [-1, 1]
    scale, mirror, angle, centre = (value.to(images.device) for value in (scale, mirror, angle, centre))
    line = (2 * torch.arange(side, device=images.device) + 1) / side - 1  # centres of pixels
    across, down = line.view(1, 1, side), line.view(1, side, 1)
    rows = across * angle.sin() + down * angle.cos()  # (B, S, S), before the rotation
    columns = across * angle.cos() - down * angle.sin()
    covered = (rows.abs() <= 1) & (columns.abs() <= 1)
    grid = torch.stack([centre[0] + scale * mirror * columns, centre[1] + scale * rows], dim=-1)
    moved = nn.functional.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
    return moved * covered[:, None]
