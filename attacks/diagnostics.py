"""Diagnostics of a run: curves of a unit, their means for the log, and the notes that a reader must know.

Shapes: U identities of a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

STRAYED = 1.5  # mean displacement of w, in standard deviations, beyond which images may have left the prior


_LOGGED = 20  # points of a curve in the run's log


def stacked(curves: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """Name -> ``(U, steps)`` float32 on the CPU, from a list over steps of ``(U,)`` for each name."""
    return {name: torch.stack(values, dim=1).float().cpu() for name, values in curves.items()}


def by_twentieth(curves: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Means over identities and over twentieths of the steps, of curves ``(U, steps)``; rounded, for the log."""
    return {
        name: [round(float(part.mean()), 5) for part in curve.mean(dim=0).tensor_split(min(_LOGGED, curve.shape[1]))]
        for name, curve in curves.items()
    }


def by_epoch(curves: Mapping[str, Tensor], epochs: int) -> dict[str, list[float]]:
    """Means over identities and over the steps of each epoch, of curves ``(U, steps)``; rounded, for the log."""
    means = {name: curve.view(curve.shape[0], epochs, -1).mean(dim=(0, 2)).tolist() for name, curve in curves.items()}
    return {name: [round(value, 5) for value in values] for name, values in means.items()}


def stray_note(drift: Tensor) -> Iterator[str]:
    """A note when candidates left the prior, from the drift ``(U, steps)``."""
    last = float(drift[:, -1].mean())
    if last > STRAYED:
        yield (
            f"w drifted by {last:.2f} standard deviations: candidates may have left the images the prior "
            "knows; lower learning_rate"
        )
