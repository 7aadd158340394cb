"""Rows of many people, person by person: one sort, where a comparison for each would look at every row for each."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_by_label(labels: Tensor) -> dict[int, Tensor]:
    """Label -> its rows, both ascending, of int64 labels ``(N,)``."""
    order = labels.argsort(stable=True)
    present, counts = labels[order].unique_consecutive(return_counts=True)
    return dict(zip(present.tolist(), order.split(counts.tolist()), strict=True))


def rows_of(groups: dict[int, Tensor], label: int) -> Tensor:
    """The rows of a label; none where nobody has it."""
    return groups.get(label, torch.empty(0, dtype=torch.int64))
