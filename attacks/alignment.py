"""AlignMI (NeurIPS 2025, arXiv 2509.20177): gradients averaged over perturbed copies of the image that is shown.

The gradient at a reconstruction has parts that leave the manifold of the prior's images; those of nearby copies differ
while the parts along the manifold agree. So ``dL/dx`` is replaced by its mean over copies and then led back through the
prior. A copy is noise added (PAA) or a random transformation (TAA).

For any attack with gradients: an image's copies are drawn beforehand, as rows of numbers, from its identity's stream.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mibench.rng import Streams, stream

from .augment import draw_crops

Alignment = Literal["none", "paa", "taa"]

TAA_AREA, TAA_FLIP, TAA_DEGREES = (0.8, 1.0), 0.5, 5.0  # released code
SEEDS = 2**24  # whole numbers below are exact in float32
_NUMBERS = {"none": 0, "paa": 1, "taa": 5}  # of a copy: the noise's seed; centre and half extents of the crop, angle


def draw_copies(kind: Alignment, names: list[int], count: int, copies: int, step: int, streams: Streams) -> Tensor:
    """What every copy of a step is made by.

    Args:
        kind: of alignment.
        names: labels of the ``U`` identities.
        count: ``K`` images of each.
        copies: ``M`` of each image.
        step: number of the step.
        streams: copies of identity ``y`` come from ``streams.generator("identity", y, "align", step)``.

    Returns:
        float32 ``(U, K, M X)``, ``X`` numbers a copy; none for ``none``.
    """
    if kind == "none":
        return torch.zeros(len(names), count, 0)
    rows = []
    for name in names:
        generator = streams.generator("identity", name, "align", step)
        if kind == "paa":
            drawn = torch.randint(SEEDS, (count * copies, 1), generator=generator).float()
        else:
            crops = draw_crops(count * copies, generator, scale=TAA_AREA, flip=TAA_FLIP)
            turns = (2 * torch.rand(count * copies, 1, generator=generator) - 1) * math.radians(TAA_DEGREES)
            drawn = torch.cat([crops, turns], dim=1)
        rows.append(drawn.view(count, -1))
    return torch.stack(rows)


def copied(images: Tensor, drawn: Tensor, number: int, kind: Alignment, strength: float) -> Tensor:
    """Copy ``number`` of each image ``(N, 3, H, W)``, differentiable.

    PAA: ``x + strength (max x - min x) e`` with ``e`` standard normal; the range is the image's own (the released code
    takes the batch's, which ties samples together). TAA: crop, flip and rotation in one interpolation, with black where
    a rotation uncovers nothing.

    Args:
        images: in [0, 1]. Copies of PAA may leave that range, as published.
        drawn: rows ``(N, M X)`` of :func:`draw_copies`, on the CPU.
        number: from 0.
        kind: ``none`` returns the images.
        strength: of PAA.
    """
    if kind == "none":
        return images
    width = _NUMBERS[kind]
    own = drawn[:, number * width : (number + 1) * width]
    if kind == "paa":
        noise = [torch.randn(images.shape[1:], generator=stream(int(seed), "noise")) for seed in own[:, 0].tolist()]
        flat = images.detach().flatten(1)
        spread = (flat.amax(dim=1) - flat.amin(dim=1)).view(-1, 1, 1, 1)
        return images + strength * spread * torch.stack(noise).to(images.device, images.dtype, non_blocking=True)
    x, y, half_width, half_height, turn = own.to(images.device, non_blocking=True).unbind(dim=1)
    cos, sin = turn.cos(), turn.sin()
    rows = [half_width * cos, -half_height * sin, x, half_width * sin, half_height * cos, y]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid.to(images.dtype), align_corners=False)
