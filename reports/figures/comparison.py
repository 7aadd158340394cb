"""A dot with its interval for every attack and target; seeds as ticks, so that one lucky seed can be seen."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mibench.reports.comparison import Comparison, Row

from .style import GREY, INK, NORMAL, SMALL, colours, figure, heading, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("acc1", "knn_distance", "true_identity_error")
TITLE = "Attacks side by side"
MOST_LETTERS = 32  # in a line of a label beside the axis; a label has two lines at most
MOST_BELOW = 40  # in a line of a label below a panel


def comparison_plot(comparison: Comparison, panels: Sequence[str] = PANELS, title: str = TITLE) -> Figure:
    """Rows below each other by target, a panel per headline metric; colour and marker by attack, floors in grey."""
    names = [name for name in panels if name in comparison.metrics] or list(comparison.metrics[:1])
    styles = _styles(comparison)
    heights, heads = _heights(comparison)
    height = 1.25 + 0.27 * (len(heights) + 1.4 * len(heads)) + 0.55
    longest = max(len(line) for row in comparison.rows for line in _broken(row.label).split("\n"))
    fig = figure(min(14.0, 1.0 + 0.075 * longest + 3.1 * max(1, len(names))), height)
    plots = fig.subplots(1, max(1, len(names)), sharey=True, squeeze=False)[0]
    lowest = max(heights) + 0.7
    for name, axes in zip(names, plots, strict=False):
        _panel(axes, comparison, name, heights, styles)
        for line in heads.values():
            if line > 0:
                axes.axhline(line - 0.75, color=GREY, linewidth=0.8)
    first = plots[0]
    first.set_ylim(lowest, -0.8)
    ticks = [*heights, *heads.values()]
    labels = [*(_broken(row.label) for row in comparison.rows), *heads]
    first.set_yticks(ticks, labels)
    for label in first.get_yticklabels()[len(heights) :]:
        label.set_fontweight("bold")
        label.set_fontsize(SMALL + 0.5)
    for axes in plots:
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    row = comparison.rows[0]
    subtitle = (
        f"data set {row.dataset}, protocol {row.protocol}; {row.identities} identities, bars: 95 % over identities"
    )
    if comparison.mixed:
        subtitle = f"WARNING: rows differ in {', '.join(comparison.mixed[:3])}: they do not compare"
    if any(len(each.seeds) > 1 for each in comparison.rows):
        subtitle += "; thin ticks: single seeds"
    heading(fig, title, subtitle)
    return fig


def _heights(comparison: Comparison) -> tuple[list[float], dict[str, float]]:
    """Height of every row, and of the name above each target; downwards."""
    heights: list[float] = []
    heads: dict[str, float] = {}
    height = 0.0
    for row in comparison.rows:
        if row.target not in heads:
            height += 0.6 if heads else 0.0
            heads[row.target] = height
            height += 1.0
        heights.append(height)
        height += 1.0
    return heights, heads


def _styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Colour and marker of each label; the same attack looks the same on every target."""
    attacks = list(dict.fromkeys(row.label for row in comparison.rows if not row.floor))
    styles = dict(zip(attacks, colours(len(attacks)), strict=True))
    return styles | {row.label: (GREY, "D") for row in comparison.rows if row.floor}


def _panel(
    axes: Axes, comparison: Comparison, name: str, heights: Sequence[float], styles: dict[str, tuple[str, str]]
) -> None:
    tidy(axes)
    info = comparison.infos[name]
    better = None
    for row, height in zip(comparison.rows, heights, strict=True):
        estimate = row.estimates.get(name)
        if estimate is None or estimate.value is None:
            across = axes.get_yaxis_transform()
            axes.text(0.02, height, "no value", transform=across, fontsize=SMALL, color=GREY, va="center")
            continue
        better = estimate.higher_is_better
        colour, marker = styles[row.label]
        if estimate.low is not None and estimate.high is not None:
            axes.hlines(height, estimate.low, estimate.high, color=colour, linewidth=2.2, alpha=0.55)
        axes.scatter(
            [estimate.value],
            [height],
            s=46,
            marker=marker,
            zorder=3,
            edgecolors=colour,
            facecolors="white" if row.floor else colour,
            linewidths=1.4,
        )
        _seeds(axes, row, name, height, colour)
    if info.percent:
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    else:
        axes.margins(x=0.08)
    axes.set_xlabel(_below(info.heading, better), fontsize=NORMAL, color=INK)


def _seeds(axes: Axes, row: Row, name: str, height: float, colour: str) -> None:
    values = [value for value in row.by_seed.get(name, ()) if value is not None]
    if len(values) > 1:
        axes.vlines(values, height - 0.28, height + 0.28, color=colour, linewidth=1.1)


def _below(heading: str, better: bool | None) -> str:
    """What a panel shows and which way an attack is stronger, on lines of their own where one is too short."""
    stronger = "" if better is None else "(stronger →)" if better else "(← stronger)"
    line = f"{heading} {stronger}".strip()
    return line if len(line) <= MOST_BELOW else "\n".join([*textwrap.wrap(heading, MOST_BELOW), stronger]).strip()


def _broken(label: str) -> str:
    return "\n".join(textwrap.wrap(label, MOST_LETTERS, max_lines=2, placeholder=" …"))
