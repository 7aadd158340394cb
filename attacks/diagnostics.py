"""Diagnostics of a run: curves of a unit by epoch, and the notes that a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

STRAYED = 1.5  # mean displacement of w, in standard deviations, beyond which images may have left the prior


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
