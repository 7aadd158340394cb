"""Losses per sample. Identity losses take logits ``(N, C)`` and target labels ``(N,)`` and return ``(N,)``.

They are summed by the attacks, never averaged over a batch, so that the batch size does not scale a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mibench.api import MibenchError

IdentityLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log softmax(o)_y`` (the DMMIA paper's L_ce)."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def poincare(logits: Tensor, labels: Tensor, margin: float = 1e-4) -> Tensor:
    """Poincaré distance between ``o / |o|_1`` and the one-hot target with ``1 - margin`` in place of 1 (PPA, eq. 3)."""
    u = logits / logits.abs().sum(dim=1, keepdim=True)
    v = torch.zeros_like(logits).scatter_(1, labels[:, None], 1 - margin)
    u_squared, v_squared = u.square().sum(dim=1), v.square().sum(dim=1)
    delta = 2 * (u - v).square().sum(dim=1) / ((1 - u_squared) * (1 - v_squared))
    return torch.arccosh(1 + delta)


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``max_{j != y} o_j - o_y`` (PLG-MI)."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(dim=1) - own


def logit(logits: Tensor, labels: Tensor) -> Tensor:
    """``-o_y``: the negative log likelihood on raw logits (LOMMA's L_logit without its feature term)."""
    return -logits.gather(1, labels[:, None]).squeeze(1)


def negative_log_realness(scores: Tensor) -> Tensor:
    """``-log D`` of a discriminator's logits of "real" ``s``, with ``D = sigmoid(s)``, of any shape.

    KEDMI's prior loss, where ``s`` is the logsumexp of the discriminator's class logits, and the non-saturating loss
    of a GAN. Written as ``softplus(-s)``: the published ``softplus(s) - s`` cancels to 0 in float32 from about 15 on.
    """
    return nn.functional.softplus(-scores)


IDENTITY_LOSSES: dict[str, IdentityLoss] = {
    "cross_entropy": cross_entropy,
    "poincare": poincare,
    "max_margin": max_margin,
    "logit": logit,
}


def identity_loss(name: str) -> IdentityLoss:
    """The loss of that name."""
    if name not in IDENTITY_LOSSES:
        raise MibenchError(f"unknown identity loss {name!r}", cure=f"choose one of {', '.join(IDENTITY_LOSSES)}")
    return IDENTITY_LOSSES[name]
