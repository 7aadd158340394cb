"""The ranking of finished images by the victim's confidence under random views (PPA, section 3.4).

It shows the victim images only and needs no gradient. All attacks and the floor share it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.api import Context
from mibench.rng import Streams

from .answers import Answered, confidence_in_classes
from .augment import apply_crops, draw_crops
from .batching import micro_batches, should_report


@torch.no_grad()
def robust_confidence(
    context: Context,
    images: Tensor,
    labels: Tensor,
    streams: Streams,
    *,
    transforms: int,
    scale: tuple[float, float] = (0.5, 0.9),
    ratio: tuple[float, float] = (0.8, 1.2),
    answer: Answered = confidence_in_classes,
) -> Tensor:
    """Mean confidence in the target class under random crops and flips (PPA, section 3.4).

    Of a victim that grants labels only, it is the share of the views that are still called by the target class.

    Args:
        context: the victim.
        images: ``(U, K, 3, H, W)``: ``K`` images of each of ``U`` identities.
        labels: their target classes ``(U,)``.
        streams: crops of identity ``y`` come from ``streams.generator("identity", y, "selection")``.
        transforms: how many random views of each image; 0 scores the image as it is.
        scale: area of a crop as a fraction of the image.
        ratio: width over height of a crop.
        answer: confidence ``(N, C)`` of a victim in every class for images.

    Returns:
        float32 ``(U, K)`` on the CPU.
    """
    identities, count = images.shape[:2]
    flat = images.flatten(0, 1)
    targets = labels.to(context.device).repeat_interleave(count)
    total = torch.zeros(identities * count, device=context.device)
    views = max(transforms, 1)
    crops = torch.stack(
        [
            draw_crops(
                views * count,
                streams.generator("identity", label, "selection"),
                scale=scale,
                ratio=ratio,
                flip=0.5,
            ).view(views, count, 4)
            for label in labels.tolist()
        ],
        dim=1,
    ).to(context.device)  # (views, U, K, 4)
    for part in micro_batches(flat.shape[0], context):
        on_device = flat[part].to(context.device)  # once for all views: the host waits for a copy
        reports = max(1, 100 * on_device.shape[0] // flat.shape[0])
        for view in range(views):
            seen = apply_crops(on_device, crops[view].flatten(0, 1)[part]) if transforms else on_device
            score = answer(context.victim, seen).float()
            total[part] += score.gather(1, targets[part, None]).squeeze(1)
            if should_report(view + 1, views, reports):
                done = part.start * views + on_device.shape[0] * (view + 1)
                context.progress(done, flat.shape[0] * views, "rank reconstructions")
    return (total / views).view(identities, count).cpu()
