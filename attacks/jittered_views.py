"""PLG-MI's differentiable random views: crop, brightness and contrast, flip, rotation.

The released code takes them from kornia, whose colour jitter draws one order of brightness and contrast for a batch.
Here every sample has an order of its own, as it has parameters of its own, drawn on the CPU (see
:mod:`mibench.attacks.augment`). A view is a row of nine numbers: the four of its crop, brightness, contrast, 1 where
contrast comes first, cosine and sine of the rotation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .augment import apply_crops, draw_crops

# released: train_cgan.py and reconstruct.py alike
AREA = (0.8, 1.0)  # of a square crop, as a share of the image's
BRIGHTNESS = CONTRAST = (0.8, 1.2)  # factors
FLIP = 0.5  # probability
TURN, TURNED = math.radians(5), 0.5  # largest angle to either side; probability of a rotation, kornia's default
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601: the mean that contrast leaves alone is that of the grey image


def draw_jittered_views(count: int, generator: torch.Generator, *, jitter: float = 1.0) -> Tensor:
    """Draw ``count`` views.

    Args:
        count: how many.
        generator: where the numbers come from.
        jitter: probability that a view changes brightness and contrast; the rotation has one of its own.

    Returns:
        float32 ``(count, 9)``.
    """
    crops = draw_crops(count, generator, scale=AREA, flip=FLIP)
    u = torch.rand(count, 6, generator=generator)
    brightness, contrast = (low + (high - low) * u[:, k] for k, (low, high) in enumerate((BRIGHTNESS, CONTRAST)))
    left_alone = u[:, 3] >= jitter
    angle = torch.where(u[:, 4] < TURNED, (2 * u[:, 5] - 1) * TURN, 0.0)
    columns = [
        brightness.masked_fill(left_alone, 1),
        contrast.masked_fill(left_alone, 1),
        (u[:, 2] < 0.5).float(),
        angle.cos(),
        angle.sin(),
    ]
    return torch.cat([crops, torch.stack(columns, dim=1)], dim=1)


def apply_jittered_views(images: Tensor, views: Tensor) -> Tensor:
    """Show each image in its view.

    Brightness and contrast clamp to [0, 1], as in the released code: no gradient comes back from a pixel outside. The
    rotation fills corners with 0.

    Args:
        images: ``(N, 3, H, W)``; pixels outside [0, 1] are clamped.
        views: ``(N, 9)`` from :func:`draw_jittered_views`, on the device of the images.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    seen = apply_crops(images, views[:, :4])
    brightness, contrast, contrast_first = (views[:, k, None, None, None].to(images) for k in (4, 5, 6))
    seen = torch.where(
        contrast_first > 0,
        _brightened(_contrasted(seen, contrast), brightness),
        _contrasted(_brightened(seen, brightness), contrast),
    )
    return _turned(seen, views[:, 7], views[:, 8])


def _brightened(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp(0, 1)


def _contrasted(images: Tensor, factor: Tensor) -> Tensor:
    red, green, blue = images.mean(dim=(2, 3)).unbind(dim=1)
    mean = (GREY[0] * red + GREY[1] * green + GREY[2] * blue)[:, None, None, None]  # of the grey image, too
    return (mean + factor * (images - mean)).clamp(0, 1)


def _turned(images: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated about the centre; an angle of 0 leaves an image as it is."""
    theta = torch.zeros(images.shape[0], 2, 3, dtype=cos.dtype, device=cos.device)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1] = cos, -sin, sin, cos
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    turned = nn.functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return torch.where((sin == 0)[:, None, None, None], images, turned)
