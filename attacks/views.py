"""The random views in which attacks show images to the network whose gradients they follow: one choice for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mibench.rng import Streams

from .augment import apply_crops, draw_crops
from .nuisance_views import apply_nuisance_views, draw_nuisance_views
from .strong_views import apply_strong_views, draw_strong_views

# crops: square ones, of an area that the attack sets; strong: what leaves a face and not a pattern; nuisance: what a
# photograph has beside the person
Views = Literal["crops", "strong", "nuisance"]


def draw_views(
    kind: Views, names: Sequence[int], count: int, step: int, streams: Streams, crop_scale: tuple[float, float]
) -> Tensor:
    """The views of a step, for each candidate its own.

    Args:
        kind: which views.
        names: labels of the ``U`` identities.
        count: ``K`` candidates of each.
        step: number of the step, from 0.
        streams: views of identity ``y`` come from ``streams.generator("identity", y, "crops", step)``.
        crop_scale: bounds of the area of a crop as a fraction of the image; other views have bounds of their own.

    Returns:
        float32 ``(U, K, X)`` on the CPU, with ``X`` numbers for each view.
    """
    generators = [streams.generator("identity", name, "crops", step) for name in names]
    if kind == "crops":
        return torch.stack([draw_crops(count, generator, scale=crop_scale) for generator in generators])
    draw = draw_strong_views if kind == "strong" else draw_nuisance_views
    return torch.stack([draw(count, generator) for generator in generators])


def draw_shared_crops(
    names: Sequence[int], count: int, batch_size: int, step: int, streams: Streams, crop_scale: tuple[float, float]
) -> Tensor:
    """Crops ``(U, K, 4)`` of a step, float32 on the CPU: one for all images of an identity's batch, as torchvision
    crops a batch.

    Arguments as of :func:`draw_views`; the crop of batch ``b`` comes from ``streams.generator("identity", y, "crops",
    step, b)``.
    """
    crops = []
    for name in names:
        generators = [streams.generator("identity", name, "crops", step, b) for b in range(-(-count // batch_size))]
        drawn = torch.cat([draw_crops(1, generator, scale=crop_scale) for generator in generators])
        crops.append(drawn.repeat_interleave(batch_size, dim=0)[:count])
    return torch.stack(crops)


def apply_views(kind: Views, images: Tensor, views: Tensor) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1] in their views ``(N, X)`` of :func:`draw_views`, differentiable.

    Views are handed over on the CPU: some hold seeds, and reading these on a GPU would wait for it.
    """
    if kind == "crops":
        return apply_crops(images, views.to(images.device, non_blocking=True))
    return apply_strong_views(images, views) if kind == "strong" else apply_nuisance_views(images, views)
