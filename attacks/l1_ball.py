"""The L1 balls in which IF-GMI keeps w and the features of each stage."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ROUNDS = 32  # of the threshold's search, at most; features need about ten
RADII = (1000, 2000, 3000, 4000, 5000, 6000, 8000, 8000)  # released, by stage, of w and of features alike
# numbers of w, and of the features that enter the blocks of a StyleGAN2 of 256 pixels: 4 px with 512 channels, 8, ...
PUBLISHED_WIDTH = 512
PUBLISHED_FEATURES = (8192, 32768, 131_072, 524_288, 2_097_152, 4_194_304, 8_388_608)


def into_l1_ball(x: Tensor, centre: Tensor, radius: Tensor | None) -> Tensor:
    """The nearest point of the L1 ball of each sample: ``centre + P(x - centre)``.

    P subtracts from absolute values the threshold at which their sum is the radius. It is found as the fixed point of
    ``theta = (sum of those above theta - radius) / how many`` (Michelot 1986), in as many rounds as numbers drop out:
    the threshold that sorting finds, without a sort.

    Args:
        x, centre: ``(N, ...)``.
        radius: ``(N,)``, positive; None: no ball, ``x`` as it is.
    """
    if radius is None:
        return x
    moved = (x - centre).flatten(1)
    size = moved.abs().double()
    outside = (size.sum(dim=1) >= radius)[:, None]
    active = outside.expand_as(size)
    theta = torch.zeros_like(size[:, :1])
    for _ in range(ROUNDS):
        total = torch.where(active, size, 0).sum(dim=1, keepdim=True)
        theta = torch.where(outside, (total - radius[:, None]) / active.sum(dim=1, keepdim=True).clamp(min=1), theta)
        above = active & (size > theta)
        if x.device.type == "cpu" and torch.equal(above, active):
            break  # on a GPU all rounds cost less than to wait for the answer
        active = above
    inside = moved.sign() * (size - theta.clamp(min=0)).clamp(min=0).to(x.dtype)
    return torch.where(outside.view(-1, *[1] * (x.dim() - 1)), centre + inside.view_as(x), x)


def radii(
    rule: Literal["released", "elements", "share"], share: float, stage: int, w: Tensor, features: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Radii ``(N,)`` of the balls around w ``(N, W)`` and features ``(N, ...)`` of a stage; None: no ball."""
    if rule == "share":
        return None, None if features is None else share * features.flatten(1).abs().sum(dim=1).double()
    table = float(RADII[min(stage, len(RADII) - 1)])
    of_w, of_features = table, table
    if rule == "elements":
        of_w = table / PUBLISHED_WIDTH * w.shape[1]
        published = PUBLISHED_FEATURES[min(max(stage - 1, 0), len(PUBLISHED_FEATURES) - 1)]
        of_features = table / published * (0 if features is None else features[0].numel())
    full = torch.ones(len(w), dtype=torch.float64, device=w.device)
    return of_w * full, None if features is None else of_features * full
