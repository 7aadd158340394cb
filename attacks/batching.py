"""Micro-batches: how many images go through a network at a time, without a bearing on the result.

Legend: N samples, U identities of a unit, K candidates of each, B of them in a step, X numbers of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mibench.api import Context
from mibench.rng import Streams


def micro_batches(count: int, context: Context) -> Iterator[slice]:
    """Slices of at most the context's micro-batch that together cover ``range(count)``."""
    for start in range(0, count, context.micro_batch):
        yield slice(start, min(count, start + context.micro_batch))


def should_report(step: int, steps: int, times: int = 100) -> bool:
    """Whether to report progress after ``step`` (from 1) of ``steps``: about ``times`` times in all, and at the end."""
    return step == steps or step % max(1, steps // times) == 0


def stage(context: Context, number: int, of: int) -> Context:
    """The context for stage ``number`` (from 0) of several that fill one progress bar, each an equal part of it."""

    def progress(done: int, total: int, text: str) -> None:
        context.progress(number * total + done, of * total, text)

    return replace(context, progress=progress)


def shuffled_candidates(count: int, identities: Sequence[int], epoch: int, streams: Streams) -> Tensor:
    """Candidates of each identity ``(U, K)``, int64, in the order of their batches in an epoch."""
    orders = [torch.randperm(count, generator=streams.generator("identity", y, "order", epoch)) for y in identities]
    return torch.stack(orders)


def blocks(shape: torch.Size, context: Context) -> Iterator[tuple[slice, slice]]:
    """Samples ``(U, B)`` of a step in blocks of at most the micro-batch: whole identities where they fit, in order.

    Yields:
        a slice of identities and a slice of the samples of each.
    """
    identities, each = shape
    limit = context.micro_batch
    if limit >= each:
        for start in range(0, identities, limit // each):
            yield slice(start, min(identities, start + limit // each)), slice(None)
    else:
        for k in range(identities):
            for start in range(0, each, limit):
                yield slice(k, k + 1), slice(start, start + limit)


def scatter_into_step(rows: Tensor, shape: torch.Size, identities: slice, block: slice) -> Tensor:
    """Rows ``(N, X)`` of a block of :func:`blocks` at their position in the whole step ``(U, B, X)``, ones elsewhere.

    Rounding in products and vectorised functions depends on the size of the argument and on a row's position in it. A
    function of the whole step sees each sample at the same position and the same size, whatever the block size.
    """
    if rows.shape[0] == shape.numel():
        return rows.view(*shape, -1)
    step = rows.new_ones(*shape, rows.shape[1])
    step[identities, block] = rows.view(step[identities, block].shape)
    return step
