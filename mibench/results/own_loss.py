"""Whether an attack's own loss fell, from the curves that it logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .stored_run import opened

if TYPE_CHECKING:
    from .stored_run import StoredRun

LEAST_FALL = 0.1  # of the loss at the beginning; less is the noise of random views


def own_loss_fell(run: StoredRun, names: Sequence[str]) -> float | None:
    """Share of the curves of a run whose last tenth is lower than their first by :data:`LEAST_FALL`, on average.

    Args:
        run: a run; of its units only these curves are read.
        names: of the curve, the first that a unit has counts: a row for each identity, or one for the unit.

    Returns:
        A share in [0, 1]; None where no unit has a curve of two steps or more.
    """
    import torch

    fell: list[bool] = []
    for file in sorted((run.path / "units").glob("*.safetensors")):
        with opened(file) as stored:
            logged = set(stored.keys())
            name = next((f"curve.{name}" for name in names if f"curve.{name}" in logged), None)
            if name is None:
                continue
            curves = stored.get_tensor(name).double()
        curves = curves.reshape(-1, curves.shape[-1])
        if curves.shape[1] < 2:
            continue
        tenth = max(1, curves.shape[1] // 10)
        first, last = curves[:, :tenth].mean(dim=1), curves[:, -tenth:].mean(dim=1)
        fell += torch.lt(last, first - LEAST_FALL * first.abs()).tolist()
    return sum(fell) / len(fell) if fell else None
