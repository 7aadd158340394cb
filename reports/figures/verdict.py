"""What the judges say beside the truth: attacks, floors and ceilings, and images that nobody reconstructed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mibench.reports.comparison import Comparison, Row
from mibench.reports.formatting import CONTROLS

from .comparison import comparison_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "What the judges say, and the truth"
TRUTH = "true_identity_top1"
PANELS = ("acc1", "second_acc1", TRUTH, "true_identity_recovery")


def has_verdict(comparison: Comparison) -> bool:
    """Whether some row says how often the truth was found; only data sets with ground truth do."""
    return TRUTH in comparison.metrics


def verdict_plot(comparison: Comparison) -> Figure:
    """Dots with intervals as in the comparison, one panel for each judge and two for the truth; controls at the end.

    A control has the values that its judge's table has. The nearest public images are chosen by each judge for itself.
    """
    rows = [*comparison.rows, *_controls(comparison)]
    return comparison_plot(
        dataclasses.replace(comparison, rows=tuple(rows)), PANELS, "What the judges say, and the truth"
    )


def _controls(comparison: Comparison) -> list[Row]:
    """A row for each control that has a value, below the name of the judge where several judged."""
    several = len(comparison.judges) > 1
    first = comparison.rows[0]
    rows = []
    for judge in comparison.judges:
        for control, title in CONTROLS.items():
            if names := judge.of_control(control):
                rows.append(
                    Row(
                        target=f"controls, {judge.label}" if several else "controls",
                        label=title.removeprefix("control: "),
                        attack=control,
                        prior="",
                        protocol=first.protocol,
                        dataset=first.dataset,
                        floor=True,
                        runs=(),
                        seeds=(),
                        identities=first.identities,
                        estimates={metric: judge.estimates[name] for metric, name in names.items()},
                        by_seed={},
                        cost={},
                        devices=(),
                        sees_private=True,
                    )
                )
    return rows
