"""How many identities have which accuracy and which KNN distance: where there are too many for a mark each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mibench.reports.formatting import context
from mibench.results import StoredRun, estimate_text, per_identity

from .style import BLUE, GREY, INK, NORMAL, SMALL, figure, heading, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = NDArray[np.float64]

STEPS = 20  # most bars of the accuracy besides the one at 0
BARS = 40  # of the distance


def identity_histogram(run: StoredRun, label: str, floor: StoredRun | None) -> Figure:
    """Two panels: identities by acc@1, and by mean KNN distance; the floor as an outline."""
    fig = figure(9.0, 6.6)
    upper, lower = fig.subplots(2, 1)
    accuracies = [_values(each, "hit1") for each in (run, floor) if each is not None]
    distances = [_values(each, "knn_distance") for each in (run, floor) if each is not None]
    selected = run.samples[run.samples["selected"]]
    steps = min(STEPS, int(selected.groupby("identity").size().max()))
    _panel(upper, accuracies, (np.arange(steps + 2) - 0.5) / steps, label, widest=0.05)  # a bar at each share
    upper.set_xlim(-0.04, 1.04)
    upper.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    upper.set_xlabel("acc@1 of an identity", fontsize=NORMAL, color=INK)
    highest = max((float(values.max()) for values in distances if len(values)), default=1.0)
    _panel(lower, distances, np.linspace(0, highest or 1.0, BARS + 1), label)
    lower.set_xlabel("KNN distance (squared) of an identity, mean of its samples", fontsize=NORMAL, color=INK)
    summary = f"acc@1 {estimate_text(run.metrics.get('acc1'), run.infos['acc1'])}"
    if floor is not None:
        summary += f", floor {estimate_text(floor.metrics.get('acc1'), floor.infos['acc1'])}"
    size = f"{len(accuracies[0]):,} identities, too many for a mark each: tables/identities.csv has every one"
    heading(fig, f"{label}: who leaks", f"{context(run)}\n{summary}\n{size}")
    return fig


def _values(run: StoredRun, column: str) -> Numbers:
    values: Numbers = np.asarray(per_identity(run, column), dtype=np.float64)
    return values[np.isfinite(values)]


def _panel(axes: Axes, series: Sequence[Numbers], edges: Numbers, label: str, *, widest: float = float("inf")) -> None:
    """Bars of the first series in blue, outlines of the second in grey."""
    tidy(axes)
    middles, width = (edges[:-1] + edges[1:]) / 2, min(float(edges[1] - edges[0]), widest)
    styles: tuple[dict[str, Any], ...] = (
        {"color": BLUE, "alpha": 0.85, "label": label},
        {"fill": False, "edgecolor": GREY, "linewidth": 1.4, "label": "floor"},
    )
    for values, style in zip(series, styles, strict=False):
        counts, _ = np.histogram(values, bins=edges)
        axes.bar(middles, counts, width, **style)
    axes.set_ylabel("identities", fontsize=NORMAL, color=INK)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=SMALL, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.1)
