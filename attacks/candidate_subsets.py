"""Which candidates of an identity become a new one, where an attack replaces candidates by means of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mibench.api import MibenchError
from mibench.rng import Streams


def require_subset_size(attack: str, setting: str, size: int, candidates: int) -> None:
    """Refuse subsets that are no mean of others, or that there are too few candidates for.

    Raises:
        MibenchError: with the setting and what it may be.
    """
    if not 2 <= size < candidates:
        raise MibenchError(
            f"{attack}: {setting} is how many of the other candidates are averaged; it must lie between 2 and "
            f"candidates - 1, got {size} of {candidates}"
        )


def draw_subsets(names: Sequence[int], count: int, size: int, step: int, streams: Streams) -> Tensor:
    """For every candidate of every identity, other candidates of the same identity: no two of them the same set.

    Args:
        names: labels of the ``U`` identities.
        count: ``K`` candidates of each, at least 3.
        size: ``M`` members of a subset, from 2 to ``K - 1``.
        step: how many steps came before; a name for the draw.
        streams: subsets of identity ``y`` come from ``streams.generator("identity", y, "subsets", step)``.

    Returns:
        int64 ``(U, K, M)``, each row in rising order; candidate ``k`` is in no subset of its own.
    """
    return torch.stack([_distinct(count, size, streams.generator("identity", name, "subsets", step)) for name in names])


def _distinct(count: int, size: int, generator: torch.Generator) -> Tensor:
    """One identity's subsets ``(K, M)``. Whole tables are drawn until one has no set twice, so that every such table is
    as likely; more than a quarter of all tables have none."""
    while True:
        order = torch.rand(count, count, generator=generator)
        order.fill_diagonal_(2.0)  # last in its own row
        chosen = order.sort(dim=1, stable=True).indices[:, :size].sort(dim=1).values
        if len(chosen.unique(dim=0)) == count:
            return chosen
