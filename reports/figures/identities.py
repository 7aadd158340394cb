"""Accuracy and KNN distance of each identity: the mean of a run hides who leaks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mibench.reports.figures.identity_histogram import identity_histogram
from mibench.reports.formatting import context
from mibench.results import StoredRun, estimate_text, per_identity

from .style import BLUE, GREY, INK, NORMAL, SMALL, figure, heading, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 60  # identities that still get a name under the axis
MOST_MARKS = 200  # and a mark of their own: with more, marks cover one another


def identity_plot(run: StoredRun, label: str, floor: StoredRun | None) -> Figure:
    """Two panels over the same order of identities: acc@1 with Wilson's interval over the identity's samples, and KNN
    distance with the middle half of its samples. The floor's values and mean are drawn when given.

    More than MOST_MARKS identities are counted in bars instead (:func:`~mibench.reports.figures.identity_histogram`).
    """
    accuracy, distance = per_identity(run, "hit1"), per_identity(run, "knn_distance")
    if len(accuracy) > MOST_MARKS:
        return identity_histogram(run, label, floor)
    order = sorted(accuracy.index, key=lambda identity: (-accuracy[identity], distance[identity], identity))
    width = min(14.0, max(7.0, 2.2 + 0.17 * len(order)))
    fig = figure(width, 6.6)
    upper, lower = fig.subplots(2, 1, sharex=True)
    selected = run.samples[run.samples["selected"]]
    positions = range(len(order))
    size = 36 if len(order) <= MOST_NAMES else 14

    counts = selected.groupby("identity").size()
    ranges = [_wilson(float(accuracy[i]), int(counts[i])) for i in order]
    _panel(
        upper,
        positions,
        [float(accuracy[i]) for i in order],
        ranges,
        size,
        f"{label}, 95 % interval over the identity's samples",
    )
    upper.set_ylim(-0.04, 1.04)
    upper.set_ylabel("acc@1", fontsize=NORMAL, color=INK)
    upper.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")

    lowest, highest = (selected.groupby("identity")["knn_distance"].quantile(q).to_dict() for q in (0.25, 0.75))
    spans = [(float(lowest[i]), float(highest[i])) for i in order]
    _panel(
        lower,
        positions,
        [float(distance[i]) for i in order],
        spans,
        size,
        f"{label}, mean and middle half of the identity's samples",
    )
    lower.set_ylabel("KNN distance (squared)", fontsize=NORMAL, color=INK)
    if floor is not None:
        _floor(upper, per_identity(floor, "hit1"), order, size)
        _floor(lower, per_identity(floor, "knn_distance"), order, size)
    lower.set_ylim(bottom=0)
    for axes in (upper, lower):
        axes.legend(
            fontsize=SMALL, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.1
        )
        axes.grid(axis="x", visible=False)
    lower.set_xlim(-0.7, len(order) - 0.3)
    if len(order) <= MOST_NAMES:
        lower.set_xticks(list(positions), [str(i) for i in order], rotation=90 if len(order) > 20 else 0)
        lower.set_xlabel("identity, most often recognised first", fontsize=NORMAL, color=INK)
    else:
        lower.set_xlabel(f"rank of the identity among {len(order)}, most often recognised first", fontsize=NORMAL)
    summary = f"acc@1 {estimate_text(run.metrics.get('acc1'), run.infos['acc1'])}"
    if floor is not None:
        summary += f", floor {estimate_text(floor.metrics.get('acc1'), floor.infos['acc1'])}"
    heading(fig, f"{label}: who leaks", f"{context(run)}\n{summary}")
    return fig


def _panel(
    axes: Axes, positions: range, values: list[float], spans: list[tuple[float, float]], size: float, label: str
) -> None:
    tidy(axes)
    axes.vlines(
        list(positions), [low for low, _ in spans], [high for _, high in spans], color=BLUE, alpha=0.45, linewidth=2.5
    )
    axes.scatter(list(positions), values, s=size, color=BLUE, zorder=3, label=label)


def _floor(axes: Axes, values: pd.Series[float], order: list[int], size: float) -> None:
    known = [(index, float(values[identity])) for index, identity in enumerate(order) if identity in values.index]
    if not known:
        return
    indices, heights = zip(*known, strict=True)
    axes.scatter(
        indices, heights, s=1.5 * size, facecolors="white", edgecolors=GREY, marker="D", zorder=2, label="floor"
    )
    axes.axhline(float(values.mean()), color=GREY, linestyle="--", linewidth=1.3, zorder=1, label="floor, mean")


def _wilson(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
