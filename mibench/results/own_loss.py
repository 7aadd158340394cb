"""Whether an attack's own loss fell, from the curves that it logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .stored_run import opened

if TYPE_CHECKING:
    from .stored_run import StoredRun

ROUNDING = 1e-6  # of a loss: less is no fall
ERRORS = 2.0  # standard errors that a fall exceeds


def own_loss_fell(run: StoredRun, names: Sequence[str]) -> float | None:
    """Share of the curves of a run that fell from their first tenth to their last by more than their noise.

    That is, by more than :data:`ERRORS` standard errors of the difference of both means, with the noise of a step taken
    from the differences of neighbouring ones (von Neumann's mean square successive difference): whatever the scale of
    a loss, and however small its fall, on a classifier that is never certain.

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
        noise = curves.diff(dim=1).square().mean(dim=1).div(2).sqrt()
        fell += torch.gt(first - last, ERRORS * noise * math.sqrt(2 / tenth) + ROUNDING * first.abs()).tolist()
    return sum(fell) / len(fell) if fell else None
