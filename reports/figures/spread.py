"""Precision against recall and density against coverage, a point per run with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from mibench.api import Estimate
from mibench.reports.formatting import context
from mibench.results import StoredRun

from .style import GREY, INK, NORMAL, SMALL, colours, figure, heading, tidy, write_centred

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[StoredRun, str, str, str]  # run, label, colour, marker


def spread_plot(runs: Sequence[StoredRun], labels: Sequence[str], floor: StoredRun | None) -> Figure:
    """Up is faithful, right is diverse; error bars are 95 % intervals over identities."""
    from matplotlib.lines import Line2D

    fig = figure(9.4, 5.2)
    left, right = fig.subplots(1, 2)
    points: list[Point] = [
        (run, label, colour, marker)
        for run, label, (colour, marker) in zip(runs, labels, colours(len(runs)), strict=True)
    ]
    if floor is not None and floor.path not in {run.path for run in runs}:
        points.insert(0, (floor, "floor (no attack)", GREY, "D"))
    _panel(left, points, "recall", "precision")
    dense = _panel(right, points, "coverage", "density")
    left.set_ylim(-0.04, 1.04)
    tallest = max((run.metrics["density"].high or 0 for run, *_ in points if "density" in run.metrics), default=0)
    right.set_ylim(-0.04, max(1.1, 1.08 * tallest))
    if dense:
        right.axhline(1, color=GREY, linestyle=":", linewidth=1.2)
        right.text(1.03, 1, "as dense as\nprivate data", fontsize=SMALL - 1, color=GREY, ha="right", va="bottom")
    fig.legend(
        handles=[
            Line2D([], [], marker=marker, linestyle="", markersize=9, label=label, color=colour, **_face(colour))
            for _, label, colour, marker in points
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=SMALL + 0.5,
        frameon=False,
    )
    extractor = next((run.metrics["recall"].extractor for run, *_ in points if "recall" in run.metrics), None)
    heading(
        fig,
        "Fidelity and diversity per identity",
        f"{context(runs[0])}\nk = 3, features of {extractor or 'the judge'}; bars: 95 % over identities",
    )
    return fig


def _panel(axes: Axes, points: Sequence[Point], across: str, up: str) -> bool:
    """Draw the points; whether there was one."""
    tidy(axes)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel(f"{across} →", fontsize=NORMAL, color=INK)
    axes.set_ylabel(f"{up} →", fontsize=NORMAL, color=INK)
    drawn = 0
    reason = "it was not computed"
    for run, label, colour, marker in points:
        x, y = run.metrics.get(across), run.metrics.get(up)
        if x is None or y is None or x.value is None or y.value is None:
            reason = next((e.reason for e in (x, y) if e is not None and e.reason), reason)
            continue
        axes.errorbar(
            x.value,
            y.value,
            xerr=_arms(x),
            yerr=_arms(y),
            fmt=marker,
            color=colour,
            markersize=9,
            **_face(colour),
            capsize=3,
            linewidth=1.6,
            label=label,
            zorder=3,
        )
        drawn += 1
    if not drawn:
        axes.axis("off")  # empty axes behind a sentence look like a plot
        write_centred(axes, f"No {up} and {across}:\n{reason}")
    return drawn > 0


class _Face(TypedDict, total=False):
    markerfacecolor: str
    markeredgewidth: float


def _face(colour: str) -> _Face:
    """The floor is hollow, so that a run on top of it stays visible."""
    return {"markerfacecolor": "white", "markeredgewidth": 1.6} if colour == GREY else {}


def _arms(estimate: Estimate) -> list[list[float]] | None:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
