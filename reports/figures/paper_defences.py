"""Figures of defences for papers, as :mod:`~mibench.reports.figures.paper` draws attacks.

==================== ==========================================================================================
``leakage``          what each attack gets out of each defence, beside the undefended twin and the floor
``frontier``         leakage over utility, a panel per attack; settings of one defence are joined
==================== ==========================================================================================
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.api import MetricInfo, MibenchError
from mibench.reports.matrix import Defended, Matrix

from .frontier import TWIN as TWIN_NAME
from .frontier import draw_panel, in_order_of_rows
from .palette import Look, defence_looks, defence_title, title_of
from .paper_files import MARK, TEXT, metric_name, percents, write_vectors
from .style import GREY, INK, figure, tidy

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TALLEST = 7.4  # inches of panels below each other: a page of the usual styles has about 9
LETTERS_NARROW, LETTERS_WIDE = 22, 44  # in a line of a label, by the width of the figure
TWIN = Look(INK, "*", "-")
OTHER_TRAINING = Look(GREY, "X", ":")


def write_paper(matrix: Matrix, folder: Path) -> list[Path]:
    """Write ``leakage`` and ``frontier``, one and two columns wide, as PDF and SVG; equal figures give equal bytes.

    Raises:
        MibenchError: the matrix has no metric with a value, or the folder cannot be written.
    """
    if not matrix.infos:
        raise MibenchError("no metric has a value, so that there is nothing to draw", cure="score the runs again")
    return write_vectors({"leakage": partial(leakage_plot, matrix), "frontier": partial(frontier_plot, matrix)}, folder)


def leakage_plot(matrix: Matrix, width: float) -> Figure:
    """For each attack the defences below each other, the value of the twin as a line; small diamonds are the floor."""
    name, info = next(iter(matrix.infos.items()))
    blocks = [
        (group, attack, [row for row in matrix.rows if row.group == group and attack in row.attacks])
        for group in matrix.groups
        for attack in _attacks(matrix)
    ]
    most = LETTERS_NARROW if width < 5 else LETTERS_WIDE
    heights: list[float] = []
    labels: list[str] = []
    heads: list[int] = []
    height = 0.0
    looks = defence_looks(row.defence for row in matrix.rows)
    called = {row.label: _broken(defence_title(row.label, row.defence), most) for row in matrix.rows}
    lines = sum(1.4 + sum(_room(called[row.label]) for row in rows) for *_, rows in blocks)
    fig = figure(width, 0.6 + 0.16 * lines)
    axes = fig.subplots()
    tidy(axes)
    for group, attack, rows in blocks:
        if not rows:
            continue
        heads.append(len(heights))
        heights.append(height)
        labels.append(_panel_title(matrix, group, attack))
        start = height = height + 0.5
        for row in rows:
            middle = height + _room(called[row.label]) / 2
            height += _room(called[row.label])
            heights.append(middle)
            labels.append(called[row.label])
            _draw_row(axes, matrix, row, attack, name, middle, looks)
        for row in rows:
            if row.twin and (value := _value(row, attack, name)) is not None:
                axes.vlines(value, start, height, color=GREY, linestyle="--", linewidth=0.7)
        height += 0.9
    axes.set_yticks(heights, labels)
    for index in heads:
        axes.get_yticklabels()[index].set_fontweight("bold")
    axes.set_ylim(height - 0.8, -0.7)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="both", labelsize=TEXT, length=0)
    if info.percent:
        axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
    percents(axes.xaxis, info)
    axes.set_xlabel(_leakage(info), fontsize=TEXT, color=INK)
    _explain(fig, matrix)
    return fig


def _explain(fig: Figure, matrix: Matrix) -> None:
    """What the line and the small diamonds of ``leakage`` are."""
    from matplotlib.lines import Line2D

    shown = [Line2D([], [], color=GREY, linestyle="--", linewidth=0.7, label=TWIN_NAME)]
    if matrix.floors and matrix.floors != matrix.attacks:
        size = (MARK / 3) ** 0.5
        shown.append(
            Line2D(
                [], [], color=GREY, linestyle="", marker="D", markersize=size, mfc="white", label="floor (no attack)"
            )
        )
    fig.legend(handles=shown, loc="outside lower center", ncols=2, fontsize=TEXT, frameon=False)


def frontier_plot(matrix: Matrix, width: float) -> Figure:
    """A panel per group and attack: utility across, leakage in the first metric upwards, both with intervals."""
    name, info = next(iter(matrix.infos.items()))
    panels = [(group, attack) for group in matrix.groups for attack in _attacks(matrix)]
    columns = min(len(panels), 1 if width < 5 else 2 if len(panels) == 4 else 3)
    lines = -(-len(panels) // columns)
    fig = figure(width, min(2.2, TALLEST / lines) * lines + 0.7)
    grid = fig.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    looks = defence_looks(row.defence for row in matrix.rows)
    handles: dict[str, Artist] = {}
    for axes, (group, attack) in zip(grid, panels, strict=False):
        rows = [row for row in matrix.rows if row.group == group]
        handles |= draw_panel(axes, matrix, rows, attack, name, looks, size=MARK, called=_called)
        axes.tick_params(labelsize=TEXT)
        axes.set_xlabel("test accuracy (%)", fontsize=TEXT, color=INK)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
        spec = axes.get_subplotspec()
        first = spec is None or spec.is_first_col()
        axes.set_ylabel(_leakage(info) if first else "", fontsize=TEXT, color=INK)
        percents(axes.yaxis, info)
        if len(panels) > 1:
            axes.set_title(_panel_title(matrix, group, attack), fontsize=TEXT, loc="left", color=INK)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    if handles := in_order_of_rows(handles, matrix, _called):
        fig.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=2 if width < 5 else 4,
            fontsize=TEXT,
            frameon=False,
        )
    return fig


def _broken(label: str, most: int) -> str:
    return "\n".join(textwrap.wrap(label, most, max_lines=2, placeholder=" …"))


def _room(label: str) -> float:
    """Height of a row in lines."""
    return 1.0 if "\n" not in label else 1.7


def _attacks(matrix: Matrix) -> list[str]:
    """Columns that are attacks; floors only where there is nothing else."""
    return [attack for attack in matrix.attacks if attack not in matrix.floors] or list(matrix.attacks)


def _panel_title(matrix: Matrix, group: str, attack: str) -> str:
    registered = next((row.attacks[attack].attack for row in matrix.rows if attack in row.attacks), attack)
    title = title_of(attack, registered)
    return title if len(matrix.groups) == 1 else f"{title}, {group}"


def _called(role: str, defence: str) -> str:
    if role == "undefended":
        return "undefended, other training"
    return defence_title(f"control: {defence}" if role == "control" else defence, defence)


def _leakage(info: MetricInfo) -> str:
    return f"leakage: {metric_name(info)}"


def _value(row: Defended, column: str, name: str) -> float | None:
    results = row.attacks.get(column)
    estimate = None if results is None else results.estimates.get(name)
    return None if estimate is None or estimate.value is None else float(estimate.value)


def _draw_row(
    axes: Axes, matrix: Matrix, row: Defended, attack: str, name: str, height: float, looks: Mapping[str, Look]
) -> None:
    value = _value(row, attack, name)
    if value is None:
        axes.text(0.01, height, "no value", transform=axes.get_yaxis_transform(), color=GREY, va="center")
        return
    look = TWIN if row.twin else OTHER_TRAINING if row.role == "undefended" else looks[row.defence]
    estimate = row.attacks[attack].estimates[name]
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(height, estimate.low, estimate.high, color=look.colour, linewidth=1)
    for floor in matrix.floors:
        if floor != attack and (beside := _value(row, floor, name)) is not None:
            axes.scatter(
                [beside], [height], s=MARK / 3, marker="D", edgecolors=GREY, facecolors="white", linewidths=0.7
            )
    axes.scatter(
        [value],
        [height],
        s=2.5 * MARK if row.twin else MARK,
        marker=look.marker,
        edgecolors=look.colour,
        facecolors="white" if row.role == "control" else look.colour,
        linewidths=1,
        zorder=3,
    )
