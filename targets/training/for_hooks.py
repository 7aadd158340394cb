"""What the hooks of several defences need: passes that are no training, samples added to a batch, optimisers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from mibench.api import Batch


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, so that no buffer changes; afterwards every module is in the mode that it was in.

    ``network.train()`` afterwards would not do: another defence may hold layers in evaluation.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def with_samples(batch: Batch, images: Tensor, labels: Tensor, *, own: float, added: float) -> Batch:
    """A batch with more samples behind it, whose loss is ``own * (loss so far) + added * (mean loss of the new ones)``.

    Args:
        batch: left alone.
        images: ``(K, 3, S, S)`` in [0, 1].
        labels: int64 ``(K,)``.
        own, added: factors of the two losses.
    """
    before, count = len(batch.images), len(images)
    total = before + count  # the loss of a batch is a mean over all of it
    weights = batch.weights if batch.weights is not None else batch.images.new_ones(before)
    new = weights.new_full((count,), added * total / count)
    return replace(
        batch,
        images=torch.cat([batch.images, images]),
        labels=torch.cat([batch.labels, labels]),
        weights=torch.cat([weights * (own * total / before), new]),
    )


def optimiser_like(optimiser: torch.optim.Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """An optimiser of the same kind and settings for a network of a defence's own."""
    kind = type(optimiser)
    accepted = inspect.signature(kind).parameters
    settings = {name: value for name, value in optimiser.defaults.items() if name in accepted}
    return kind(network.parameters(), **settings)
