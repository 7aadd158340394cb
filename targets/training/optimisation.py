"""Optimisers, learning rates and how an optimiser's state travels through a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    raise MibenchError(f"unknown optimiser {name!r}; choose one of {', '.join(OPTIMISERS)}")


def learning_rate_at(step: int, total: int, *, peak: float, schedule: str, warmup: int) -> float:
    """Learning rate of step ``step`` (from 0) of ``total``.

    ``none`` is constant, as the published recipe is. ``cosine`` rises linearly over ``warmup`` steps, then falls to 0
    along half a cosine.
    """
    if schedule == "none":
        return peak
    if schedule != "cosine":
        raise MibenchError(f"unknown schedule {schedule!r}; choose one of {', '.join(SCHEDULES)}")
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


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimiser's tensors by parameter index; its settings belong to the recipe and are not repeated."""
    return {
        str(index): {name: value for name, value in entry.items() if isinstance(value, Tensor)}
        for index, entry in optimiser.state_dict()["state"].items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, dict[str, Tensor]]) -> None:
    """Undo :func:`optimiser_state`.

    Each tensor takes the memory layout of its parameter: the fused kernels walk through memory and pair elements by
    address, and a checkpoint does not remember channels_last.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for index, entry in state.items():
        parameter = parameters[int(index)]
        entries[int(index)] = {
            name: torch.empty_like(parameter, requires_grad=False).copy_(value)
            if value.shape == parameter.shape
            else value
            for name, value in entry.items()
        }
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
