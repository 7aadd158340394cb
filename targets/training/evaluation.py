"""What a training reports: accuracies of classifiers, errors and identification ranks of regressors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mibench.api import Accuracy, TrainingContext
from mibench.api.training import autocast

from .augment import plain_batch

BATCH = 256  # images of up to LARGE pixels; fewer of larger ones, in proportion to their area
LARGE = 128
LEAST_VARIANCE = 1e-6


def outputs(
    network: nn.Module, store: Tensor, context: TrainingContext | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Logits (or predictions) of all images, batch by batch, as float32, in eval mode; float32 without a context."""
    network.eval()
    device = next(network.parameters()).device
    batch = max(1, BATCH * LARGE**2 // max(LARGE, store.shape[1]) ** 2)
    with torch.inference_mode():
        for start in range(0, len(store), batch):
            part = slice(start, min(start + batch, len(store)))
            if context is None:
                output = network(plain_batch(store, part, device))
            else:
                with autocast(context):
                    output = network(plain_batch(store, part, device))
            yield part, (output if isinstance(output, Tensor) else output[-1]).float()


def accuracy(network: nn.Module, store: Tensor, labels: Tensor, context: TrainingContext | None = None) -> float:
    """Share of images ``(N, S, S, 3)`` whose largest logit is their label. All images, none dropped."""
    return Accuracy.of((logits, labels[part]) for part, logits in outputs(network, store, context)).value


def predictions(network: nn.Module, store: Tensor, context: TrainingContext | None = None) -> Tensor:
    """Identity vectors ``(N, D)`` that a regressor reads from images ``(N, S, S, 3)``."""
    return torch.cat([vectors.clone() for _, vectors in outputs(network, store, context)])


def root_mean_squares(errors: Tensor) -> Tensor:
    """Root mean square of each coordinate: ``(N, D)`` to ``(D,)``."""
    return errors.double().square().mean(dim=0).sqrt().float()


def explained_variance(predicted: Tensor, truth: Tensor) -> Tensor:
    """R^2 of each coordinate, ``(N, D)`` twice to ``(D,)``; NaN where the truth does not vary."""
    truth = truth.double()
    variance = truth.var(dim=0, unbiased=False)
    remaining = (predicted.double() - truth).square().mean(dim=0)
    return torch.where(variance > LEAST_VARIANCE, 1 - remaining / variance, torch.nan).float()


def identity_ranks(predicted: Tensor, own: Tensor, candidates: Tensor, scale: Tensor | None = None) -> Tensor:
    """Rank of the true identity among the candidates by Euclidean distance, 1 = nearest; int64 ``(N,)``.

    Args:
        predicted: ``(N, D)``.
        own: index of the true candidate of each row, int64 ``(N,)``.
        candidates: ``(M, D)``.
        scale: ``(D,)``; coordinates are divided by it, so that one that the regressor reads badly counts for less.
    """
    scale = torch.ones(candidates.shape[1]) if scale is None else scale
    ranks = []
    for rows, owners in zip((predicted / scale).split(BATCH), own.split(BATCH), strict=True):
        # Differences, not torch.cdist: its fast mode returns 0 for neighbours that are 0.02 apart.
        distances = (rows[:, None] - (candidates / scale)[None]).square().sum(dim=2)
        true = distances.gather(1, owners[:, None])
        ranks.append(1 + (distances < true).sum(dim=1))
    return torch.cat(ranks)
