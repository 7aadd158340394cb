"""Differentiable random views that vary what a photograph has beside the person: position, light, colour, noise.

An attack whose loss is averaged over them looks for what stays the same: the identity. That is expectation over
transformation (Athalye et al., ICML 2018) with the nuisances of a photograph as transformations, and the gradient of
such a loss is a mean over views, as AlignMI's (NeurIPS 2025, arXiv 2509.20177) is over copies. The views of
:mod:`mibench.attacks.strong_views` are for another end: they blur and crop away patterns that nobody sees.

As with :mod:`mibench.attacks.augment`, every sample has parameters of its own, drawn on the CPU. A view is a row of
twelve numbers: the affine map from its pixels to those of the image, row by row ``(a, b, x, c, d, y)``; the gains of
red, green and blue; what is added to all pixels; the noise's standard deviation and its seed. All that is not exactly
rounded (sines, square roots) is computed when a view is drawn, so that showing images in their views gives the same
bytes in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mibench.rng import stream

# ours, all bounds; evenly drawn between them
SCALE = (0.85, 1.1)  # size of the face in the view over its size in the image
SHIFT = 0.1  # to either side, in units of half an image
TURN = 0.2  # radians to either side
FLIP = 0.5  # probability
GAIN, EXPOSURE = (0.65, 1.35), (0.7, 1.3)  # factors, of each channel and of all of them
OFFSET = 0.12  # added to pixels in [0, 1], or taken from them
NOISE = 0.05  # standard deviation, of pixels in [0, 1]
SEEDS = 2**24  # whole numbers below are exact in float32

UNCHANGED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)  # the view that leaves an image as it is


def draw_nuisance_views(count: int, generator: torch.Generator) -> Tensor:
    """Parameters ``(count, 12)`` of ``count`` views, float32."""
    u = torch.rand(count, 10, generator=generator)
    scale, exposure = _between(SCALE, u[:, 0]), _between(EXPOSURE, u[:, 5])
    x, y = (_between((-SHIFT, SHIFT), u[:, k]) for k in (1, 2))
    turn = _between((-TURN, TURN), u[:, 3])
    sign = torch.where(u[:, 4] < FLIP, -1.0, 1.0)
    cos, sin = turn.cos() / scale, turn.sin() / scale
    gains = _between(GAIN, u[:, 6:9]) * exposure[:, None]
    offset = _between((-OFFSET, OFFSET), u[:, 9])
    seeds = torch.randint(SEEDS, (count,), generator=generator).float()
    columns = [sign * cos, -sin, x, sign * sin, cos, y, *gains.unbind(dim=1), offset, torch.full_like(x, NOISE), seeds]
    return torch.stack(columns, dim=1)


def apply_nuisance_views(images: Tensor, views: Tensor) -> Tensor:
    """Show each image in its view: turn, scale, shift and flip in one interpolation, then colour, then noise.

    What lies outside the image repeats its border. The view is clamped to [0, 1] as a photograph is, so that no
    gradient comes back from what is over- or underexposed.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        views: ``(N, 12)`` from :func:`draw_nuisance_views`, on the CPU, so that nothing waits for a device.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    noise = [torch.randn(images.shape[1:], generator=stream(int(seed), "noise")) for seed in views[:, 11].tolist()]
    drawn = torch.stack(noise) * views[:, 10, None, None, None] if noise else views.new_zeros(images.shape)
    there = views.to(images.device, non_blocking=True)
    a, b, x, c, d, y = (column[:, None, None] for column in there[:, :6].unbind(dim=1))
    across, down = (((torch.arange(side, device=images.device) + 0.5) * 2 / side - 1) for side in images.shape[:1:-1])
    across, down = across[None, None], down[None, :, None]
    grid = torch.stack([a * across + b * down + x, c * across + d * down + y], dim=3)
    seen = nn.functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    gains, offset = (part[..., None, None].to(images.dtype) for part in (there[:, 6:9], there[:, 9:10]))
    return (seen * gains + offset + drawn.to(images.device, images.dtype, non_blocking=True)).clamp(0, 1)


def _between(bounds: tuple[float, float], u: Tensor) -> Tensor:
    """Numbers in [0, 1) stretched to the bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * u
