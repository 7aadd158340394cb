"""Differentiable random views that leave a face and disturb what is finer: crop, flip, coarser pixels, blur, noise.

For the loss of an attack on a classifier that learned to answer to patterns which nobody sees (trapdoors, adversarial
noise): a gradient that follows such a pattern in one view finds it gone in the next (Athalye et al., "Synthesizing
Robust Adversarial Examples", ICML 2018: expectation over transformation).

As with :mod:`mibench.attacks.augment`, every sample has parameters of its own, drawn on the CPU ahead of the loop. A
view is a row of eight numbers: the four of its crop, the standard deviation of the blur (a share of the side), how
much coarser the pixels are, the standard deviation of the noise, and the noise's seed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mibench.rng import stream

from .augment import apply_crops, draw_crops

# ours, all bounds: about those of the views of PPA's final selection, with blur and noise beside them
AREA, RATIO, FLIP = (0.5, 1.0), (0.8, 1.2), 0.5
BLUR = 1.5 / 64  # largest standard deviation, of the image's side
COARSER = (1.0, 0.75, 0.5)  # side in pixels before it is brought back, each as likely
NOISE = 0.1  # largest standard deviation, of pixels in [0, 1]
SEEDS = 2**24  # whole numbers below are exact in float32


def draw_strong_views(count: int, generator: torch.Generator) -> Tensor:
    """Parameters ``(count, 8)`` of ``count`` views, float32."""
    crops = draw_crops(count, generator, scale=AREA, ratio=RATIO, flip=FLIP)
    blur, noise = (bound * torch.rand(count, generator=generator) for bound in (BLUR, NOISE))
    coarser = torch.tensor(COARSER)[torch.randint(len(COARSER), (count,), generator=generator)]
    seeds = torch.randint(SEEDS, (count,), generator=generator).float()
    return torch.cat([crops, torch.stack([blur, coarser, noise, seeds], dim=1)], dim=1)


def apply_strong_views(images: Tensor, views: Tensor) -> Tensor:
    """Show each image in its view; the order is crop and flip, coarser pixels, blur, noise.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        views: ``(N, 8)`` from :func:`draw_strong_views`, on the CPU, so that nothing waits for a device.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    noise = [torch.randn(images.shape[1:], generator=stream(int(seed), "noise")) for seed in views[:, 7].tolist()]
    views = views.to(images.device, non_blocking=True)
    seen = apply_crops(images, views[:, :4])
    for share in COARSER[1:]:
        size = [max(1, round(share * side)) for side in images.shape[2:]]
        small = nn.functional.interpolate(seen, size=size, mode="bilinear", align_corners=False, antialias=True)
        back = nn.functional.interpolate(small, size=images.shape[2:], mode="bilinear", align_corners=False)
        seen = torch.where((views[:, 5] == share)[:, None, None, None], back, seen)
    seen = _blurred(_blurred(seen, views[:, 4] * images.shape[2], 2), views[:, 4] * images.shape[3], 3)
    drawn = torch.stack(noise).to(seen, non_blocking=True) if noise else torch.zeros_like(seen)
    return (seen + views[:, 6].to(seen)[:, None, None, None] * drawn).clamp(0, 1)


def _blurred(images: Tensor, sigma: Tensor, dim: int) -> Tensor:
    """Images convolved along one axis with a Gaussian of standard deviations ``sigma`` ``(N,)`` in pixels."""
    reach = max(1, round(2 * BLUR * images.shape[dim]))
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    weights = (-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]).square()).exp()  # (N, 2 reach + 1)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(images)
    pad = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
    padded = nn.functional.pad(images, pad, mode="replicate")
    size = images.shape[dim]
    parts = [weights[:, k, None, None, None] * padded.narrow(dim, k, size) for k in range(2 * reach + 1)]
    return torch.stack(parts).sum(dim=0)
