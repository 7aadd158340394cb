"""Accuracy against distance, a point per identity: who is recognised, and how near the reconstructions come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mibench.reports.formatting import context
from mibench.results import StoredRun, per_identity

from .style import BLUE, GREY, INK, NORMAL, SMALL, figure, heading, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKS = 2000  # more would only cover one another


def accuracy_distance_plot(run: StoredRun, label: str, floor: StoredRun | None) -> Figure:
    """Mean KNN distance of each identity across, its acc@1 upwards; the floor's people as hollow grey diamonds."""
    fig = figure(7.4, 4.4)
    axes = fig.add_subplot()
    tidy(axes)
    if floor is not None:
        _points(axes, floor, "floor (no attack)", colour=GREY, marker="D", face="white")
    _points(axes, run, label, colour=BLUE, marker="o", face=BLUE)
    axes.set_ylim(-0.05, 1.05)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_ylabel("acc@1 of an identity (leaks more ↑)", fontsize=NORMAL, color=INK)
    axes.set_xlabel("KNN distance (squared), mean of an identity (← leaks more)", fontsize=NORMAL, color=INK)
    axes.legend(fontsize=SMALL, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.1)
    heading(fig, "Accuracy against distance", context(run))
    return fig


def _points(axes: Axes, run: StoredRun, label: str, *, colour: str, marker: str, face: str) -> None:
    accuracy, distance = per_identity(run, "hit1"), per_identity(run, "knn_distance")
    axes.scatter(
        distance.to_numpy()[:MOST_MARKS],
        accuracy.to_numpy()[:MOST_MARKS],
        s=30,
        marker=marker,
        facecolors=face,
        edgecolors=colour,
        linewidths=1.2,
        alpha=0.8,
        label=label,
    )
