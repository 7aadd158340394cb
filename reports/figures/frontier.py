"""Privacy against utility: what attacks get out of each defence, over what its classifier is still good for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mibench.reports.matrix import Defended, Matrix

from .palette import Look, defence_looks
from .style import GREY, INK, NORMAL, SMALL, figure, heading, tidy, write_centred

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 0.2  # a range of utilities beyond which a linear axis would press the good ones together
TWIN = "undefended twin"
LOGIT_TICKS = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def frontier_plot(matrix: Matrix) -> Figure:
    """A panel per group and attack: utility across, leakage in the first metric upwards.

    Rows of one defence are joined in the order of their settings, so a knob that was swept is a curve. The twin is a
    star; undefended trainings of another recipe, the trivial baselines, are grey; controls are hollow.
    """
    name = next(iter(matrix.infos))
    attacks = [attack for attack in matrix.attacks if attack not in matrix.floors] or list(matrix.attacks)
    panels = [(group, attack) for group in matrix.groups for attack in attacks]
    columns = min(3 if len(panels) != 4 else 2, len(panels))
    lines = -(-len(panels) // columns)
    fig = figure(max(6.0, 3.7 * columns + 1.9), 0.9 + 3.1 * lines)
    grid = fig.subplots(lines, columns, squeeze=False).ravel()
    looks = defence_looks(row.defence for row in matrix.rows)
    handles: dict[str, Artist] = {}
    for axes, (group, attack) in zip(grid, panels, strict=False):
        rows = [row for row in matrix.rows if row.group == group]
        handles |= draw_panel(axes, matrix, rows, attack, name, looks)
        title = attack if len(matrix.groups) == 1 else f"{attack}, {group}"
        axes.set_title(title, fontsize=NORMAL, color=INK)
    for axes in grid[len(panels) :]:
        axes.axis("off")
    if handles:
        beside, handles = grid[columns - 1], in_order_of_rows(handles, matrix, legend_text)
        beside.legend(
            list(handles.values()),
            list(handles),
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            fontsize=SMALL,
            frameon=False,
        )
    cells = [cell for row in matrix.rows for cell in row.attacks.values()]
    under = (
        f"data set {cells[0].dataset}, protocol {cells[0].protocol}; bars: 95 % intervals, of utility over "
        "test images, of leakage over identities; lines join the settings of one defence in their order"
    )
    if matrix.mixed:
        under = f"WARNING: runs differ in {', '.join(matrix.mixed[:3])}: they do not compare"
    heading(fig, "Privacy against utility", under)
    return fig


def legend_text(role: str, defence: str) -> str:
    """What a legend calls the rows of a defence."""
    if role == "undefended":
        return "undefended, other training"
    return f"control: {defence}" if role == "control" else defence


def in_order_of_rows(
    handles: Mapping[str, Artist], matrix: Matrix, called: Callable[[str, str], str]
) -> dict[str, Artist]:
    """Legend entries: the twin, then as the rows are, whichever panel had them first."""
    names = dict.fromkeys([TWIN, *(called(row.role, row.defence) for row in matrix.rows)])
    return {name: handles[name] for name in names if name in handles}


def draw_panel(
    axes: Axes,
    matrix: Matrix,
    rows: Sequence[Defended],
    attack: str,
    name: str,
    looks: Mapping[str, Look],
    *,
    size: float = 42,
    called: Callable[[str, str], str] = legend_text,
) -> dict[str, Artist]:
    """Draw one attack; legend entries by label.

    Args:
        axes: an empty panel.
        matrix: what is drawn.
        rows: of one group; every panel of a group has one scale of utility, which leaves room for all of them.
        attack: column of the matrix.
        name: the metric of leakage.
        looks: of each defence.
        size: area of a marker in square points.
        called: what a legend calls a role and a defence.
    """
    tidy(axes)
    info = matrix.infos[name]
    handles: dict[str, Artist] = {}
    drawn = [row for row in rows if _point(row, attack, name) is not None]
    if not drawn:
        write_centred(axes, "no row has both utility and leakage")
        return {}
    for key in dict.fromkeys((row.role, row.defence) for row in drawn if not row.twin):
        alike = [row for row in drawn if (row.role, row.defence) == key and not row.twin]
        baseline = key[0] == "undefended"
        if baseline:  # a defence's rows are in the order of its settings already
            alike.sort(key=lambda row: float(row.utility.value or 0))
        look = Look(GREY, "X", ":") if baseline else looks[key[1]]
        points = [point for row in alike if (point := _point(row, attack, name)) is not None]
        if baseline:  # a training that was cut short leads to the whole one
            points += [point for row in drawn if row.twin and (point := _point(row, attack, name)) is not None][:1]
        axes.plot(*zip(*points, strict=True), color=look.colour, linewidth=1.2, linestyle=look.line, zorder=2)
        for row in alike:
            handle = _mark(axes, row, attack, name, look, size, hollow=key[0] == "control")
            handles.setdefault(called(*key), handle)
    for row in drawn:
        if row.twin:
            handles[TWIN] = _mark(axes, row, attack, name, Look(INK, "*", "-"), 3.6 * size, hollow=False)
            x, y = _point(row, attack, name) or (0.0, 0.0)
            axes.axhline(y, color=GREY, linewidth=0.7, linestyle="--", zorder=1)
            axes.axvline(x, color=GREY, linewidth=0.7, linestyle="--", zorder=1)
    axes.margins(0.09)
    _scale_utility(axes, rows)
    if info.percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_ylim(-0.03, 1.03)
    stronger = (
        "" if info.higher_is_better is None else " (leaks more ↑)" if info.higher_is_better else " (leaks more ↓)"
    )
    axes.set_xlabel("utility: test accuracy (→ better)", fontsize=SMALL + 0.5, color=INK)
    axes.set_ylabel(f"leakage: {info.title}{stronger}", fontsize=SMALL + 0.5, color=INK)
    return handles


def _scale_utility(axes: Axes, rows: Sequence[Defended]) -> None:
    """Limits and ticks of the axis of utility, intervals included; where one defence costs far more than the rest, its
    scale is that of log odds, so that points near the twin stay apart."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

    values = [float(row.utility.value) for row in rows if row.utility.value is not None]
    bounds = [float(b) for row in rows for b in (row.utility.low, row.utility.high) if b is not None]
    least, most = min(values + bounds), max(values + bounds)
    if max(values) - min(values) > WIDE and least > 0 and most < 1:
        low, high = (np.log(value / (1 - value)) for value in (least, most))
        room = 0.09 * (high - low)
        axes.set_xscale("logit")
        axes.set_xlim(*(1 / (1 + np.exp(-each)) for each in (low - room, high + room)))
        axes.xaxis.set_major_locator(
            FixedLocator([each for each in LOGIT_TICKS if low <= np.log(each / (1 - each)) <= high])
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.09 * (most - least) or 0.01
        axes.set_xlim(least - room, most + room)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def _mark(axes: Axes, row: Defended, attack: str, name: str, look: Look, size: float, *, hollow: bool) -> Artist:
    """A point with its two intervals; what a legend shows of it."""
    estimate = row.attacks[attack].estimates[name]
    x, y = _point(row, attack, name) or (0.0, 0.0)
    if estimate.low is not None and estimate.high is not None:
        axes.vlines(x, estimate.low, estimate.high, color=look.colour, linewidth=1.6, alpha=0.45, zorder=2)
    if row.utility.low is not None and row.utility.high is not None:
        axes.hlines(y, row.utility.low, row.utility.high, color=look.colour, linewidth=1.6, alpha=0.45, zorder=2)
    return axes.scatter(
        [x],
        [y],
        s=size,
        marker=look.marker,
        edgecolors=look.colour,
        facecolors="white" if hollow else look.colour,
        linewidths=1.3,
        zorder=4 if row.twin else 3,
    )


def _point(row: Defended, attack: str, name: str) -> tuple[float, float] | None:
    """Utility and leakage; None where either is not known."""
    results = row.attacks.get(attack)
    estimate = None if results is None else results.estimates.get(name)
    if estimate is None or estimate.value is None or row.utility.value is None:
        return None
    return float(row.utility.value), float(estimate.value)
