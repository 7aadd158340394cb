"""Curves that the attack logged: losses and diagnostics over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mibench.reports.formatting import context, curve_title
from mibench.results import StoredRun

from .style import GREY, INK, LINES, NORMAL, SMALL, colours, figure, heading, tidy, write_centred

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAND = (10, 90)  # percentiles over identities


def curves_plot(runs: Sequence[StoredRun], labels: Sequence[str]) -> Figure:
    """A panel per curve: mean over identities and the band from the 10th to the 90th percentile.

    A curve whose mean is positive and spans more than three orders of magnitude gets a logarithmic axis.
    """
    from matplotlib.ticker import MaxNLocator

    curves = [run.curves for run in runs]
    names = sorted({name for logged in curves for name in logged}, key=lambda name: (not name.startswith("L_"), name))
    columns = 2 if len(names) in (2, 4) else min(3, max(1, len(names)))
    lines = max(1, math.ceil(len(names) / columns))
    fig = figure(max(7.0, 3.6 * columns), 0.9 + 2.5 * lines)
    panels = fig.subplots(lines, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        tidy(panel)
        least, most = math.inf, -math.inf
        counts: set[int] = set()
        for index, (logged, label, (colour, _)) in enumerate(zip(curves, labels, colours(len(runs)), strict=True)):
            if name not in logged:
                continue
            table = logged[name].double().numpy()
            table = table[:, ~np.isnan(table).all(axis=0)]
            steps = np.arange(1, table.shape[1] + 1)
            middle = np.nanmean(table, axis=0)
            if table.shape[0] > 1:
                low, high = np.nanpercentile(table, BAND, axis=0)
                panel.fill_between(steps, low, high, color=colour, alpha=0.22, linewidth=0)
            counts.add(table.shape[0])
            panel.plot(
                steps,
                middle,
                color=colour,
                linewidth=1.8,
                linestyle=LINES[index % len(LINES)],
                label=label,
                marker="o" if len(steps) == 1 else "",
            )
            # a curve that starts at rounding error (a drift) is not one that spans decades
            low_end = float(np.percentile(middle, 5))
            least, most = min(least, low_end), max(most, float(middle.max()))
        if least > 0 and most / least > 1e3:
            panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))  # steps are counted
        title = curve_title(name)
        n = "/".join(str(count) for count in sorted(counts))
        panel.set_title(f"{title} (n = {n})", fontsize=NORMAL, color=INK)
        panel.set_xlabel("step", fontsize=SMALL, color=GREY)
    for panel in panels[len(names) :]:
        panel.axis("off")
    if not names:
        write_centred(panels[0], "This attack logged no curve.")
    elif len(runs) > 1:
        panels[0].legend(fontsize=SMALL, frameon=False)
    band = (
        f"\nLine: mean of the n curves logged (per identity or per unit); band: {BAND[0]}th to {BAND[1]}th percentile."
    )
    heading(fig, f"{', '.join(labels)}: curves", f"{context(runs[0])}{band}")
    return fig
