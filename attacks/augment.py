"""Differentiable random crops and flips, with parameters of its own for every sample.

Parameters are drawn on the CPU ahead of the loop, from a named generator, so they depend on neither batch nor device;
one bilinear resampling applies them. torchvision draws one crop for a whole batch, which is not what papers mean by
"random crop".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def draw_crops(
    count: int,
    generator: torch.Generator,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.0,
) -> Tensor:
    """Draw ``count`` random resized crops.

    Args:
        count: how many.
        generator: where the numbers come from (five per crop).
        scale: bounds of the crop's area as a fraction of the image.
        ratio: bounds of the crop's width over height, drawn evenly in its logarithm.
        flip: probability of a horizontal flip.

    Returns:
        float32 ``(count, 4)``: centre x and y in [-1, 1], half extents (the horizontal one negative when flipped).
    """
    u = torch.rand(count, 5, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * u[:, 0]
    aspect = (math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[:, 1]).exp()
    half_width = (area * aspect).sqrt().clamp(max=1)
    half_height = (area / aspect).sqrt().clamp(max=1)
    centre_x = (2 * u[:, 2] - 1) * (1 - half_width)
    centre_y = (2 * u[:, 3] - 1) * (1 - half_height)
    sign = torch.where(u[:, 4] < flip, -1.0, 1.0)
    return torch.stack([centre_x, centre_y, half_width * sign, half_height], dim=1)


def apply_crops(images: Tensor, crops: Tensor) -> Tensor:
    """Crop and resize back to the same size.

    Args:
        images: ``(N, 3, H, W)``.
        crops: ``(N, 4)`` from :func:`draw_crops`, on the device of the images.
    """
    theta = torch.zeros(images.shape[0], 2, 3, dtype=crops.dtype, device=crops.device)
    theta[:, 0, 0], theta[:, 0, 2] = crops[:, 2], crops[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = crops[:, 3], crops[:, 1]
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
