"""Optimisers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from mibench.api import MibenchError

OPTIMISERS = ("sgd", "adamw", "adam")
SCHEDULES = ("none", "cosine")


def build_optimiser(
    network: nn.Module, name: str, *, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """``sgd``, ``adamw`` or ``adam`` over the network's trainable parameters, as one fused kernel per step."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
    if name in ("adamw", "adam"):
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return kind(parameters, lr=learning_rate, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True)
    raise MibenchError(f"unknown optimiser {name!r}", cure=f"choose one of {', '.join(OPTIMISERS)}")


def learning_rate_at(step: int, total: int, *, peak: float, schedule: str, warmup: int) -> float:
    """Learning rate of step ``step`` (from 0) of ``total``.

    ``none`` is constant, as the published recipe is. ``cosine`` rises linearly over ``warmup`` steps, then falls to 0
    along half a cosine.
    """
    if schedule == "none":
        return peak
    if schedule != "cosine":
        raise MibenchError(f"unknown schedule {schedule!r}", cure=f"choose one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def stepped(epoch: int, *, peak: float, milestones: Sequence[int], decay: float) -> float:
    """Learning rate of an epoch (from 0) that is multiplied by ``decay`` at each milestone: torch's ``MultiStepLR``."""
    if any(milestone < 1 for milestone in milestones):
        raise MibenchError(f"milestones are numbers of epochs, at least 1, got {tuple(milestones)}")
    if not (math.isfinite(decay) and decay > 0):
        raise MibenchError(f"decay must be a positive number, got {decay}")
    return peak * decay ** sum(epoch >= milestone for milestone in milestones)
