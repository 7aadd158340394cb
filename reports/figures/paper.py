"""Figures of attacks for papers: vectors, one and two columns wide, readable without colour, without headings.

==================== ==========================================================================================
``queries``          success against images shown to the target for each person, a panel per target
``people``           success of each person, from the easiest to the hardest, a panel per target
``targets``          targets below each other for each attack; with several targets only
==================== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mibench.api import MibenchError
from mibench.reports.comparison import Comparison, Row
from mibench.results import open_run, per_identity

from .palette import Look, looks_of, title_of
from .paper_files import MARK, TEXT, metric_name, percents, write_vectors
from .style import GREY, INK, figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USUAL = "acc1"
ROOM = 1.6  # beside the first and the last number of queries, as a factor


def write_paper(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``NAME-one-column`` and ``NAME-two-columns`` of each figure, PDF and SVG; equal figures give equal bytes.

    Raises:
        MibenchError: the comparison has no metric with a value, or the folder cannot be written.
    """
    if not comparison.metrics:
        raise MibenchError("no metric has a value, so that there is nothing to draw", cure="score the runs again")
    draws = {"queries": partial(queries_plot, comparison), "people": partial(people_plot, comparison)}
    if len(comparison.targets) > 1:
        draws["targets"] = partial(targets_plot, comparison)
    return write_vectors(draws, folder)


def queries_plot(comparison: Comparison, width: float) -> Figure:
    """Success against images for each person, forwards and backwards together, preparation included."""
    metric = _metric(comparison)
    looks = _looks(comparison)
    with _panels(comparison, width) as (fig, panels):
        for target, axes in panels.items():
            for row in _rows(comparison, target):
                estimate, shown = row.estimates.get(metric), _queries(row)
                if estimate is None or estimate.value is None or shown is None:
                    continue
                look = looks[row.label]
                if estimate.low is not None and estimate.high is not None:
                    axes.vlines(shown, estimate.low, estimate.high, color=look.colour, linewidth=1)
                _mark(axes, shown, estimate.value, look, row)
        counts = [count for row in comparison.rows if (count := _queries(row)) is not None]
        for axes in panels.values():
            if counts and min(counts) > 0:
                axes.set_xscale("log")
                axes.set_xlim(min(counts) / ROOM, max(counts) * ROOM)
        _finish(comparison, fig, panels, "queries per person", metric)
    return fig


def people_plot(comparison: Comparison, width: float) -> Figure:
    """Success of each person, mean over seeds, in descending order for each attack by itself."""
    metric = _metric(comparison)
    looks = _looks(comparison)
    with _panels(comparison, width) as (fig, panels):
        for target, axes in panels.items():
            for row in _rows(comparison, target):
                values = _by_person(row, metric)
                if values is None:
                    continue
                look = looks[row.label]
                axes.plot(
                    np.arange(1, len(values) + 1),
                    values,
                    color=look.colour,
                    linestyle=look.line,
                    marker=look.marker,
                    markevery=max(1, len(values) // 6),
                    markersize=3.5,
                    markerfacecolor="white" if row.floor else look.colour,
                    linewidth=1,
                    label=title_of(row.label, row.attack),
                )
        _finish(comparison, fig, panels, "people, by success", metric)
    return fig


def targets_plot(comparison: Comparison, width: float) -> Figure:
    """For each attack the targets below each other: the same attack is adjacent to itself."""
    metric = _metric(comparison)
    looks = _looks(comparison)
    labels = list(dict.fromkeys(row.label for row in comparison.rows))
    labels.sort(key=lambda label: any(row.floor for row in comparison.rows if row.label == label))  # floors last
    lines: list[tuple[float, str]] = []
    height = 0.0
    fig = figure(width, 0.6 + 0.16 * (len(comparison.rows) + 1.3 * len(labels)))
    axes = fig.subplots()
    tidy(axes)
    heads = []
    for label in labels:
        rows = [row for row in comparison.rows if row.label == label]
        heads.append(len(lines))
        lines.append((height, title_of(label, rows[0].attack)))
        for row in rows:
            height += 1
            lines.append((height, row.target))
            estimate = row.estimates.get(metric)
            if estimate is None or estimate.value is None:
                axes.text(0.01, height, "no value", transform=axes.get_yaxis_transform(), color=GREY, va="center")
                continue
            look = looks[label]
            if estimate.low is not None and estimate.high is not None:
                axes.hlines(height, estimate.low, estimate.high, color=look.colour, linewidth=1)
            _mark(axes, estimate.value, height, look, row)
        height += 1.3
    axes.set_yticks([at for at, _ in lines], [text for _, text in lines])
    for index in heads:
        axes.get_yticklabels()[index].set_fontweight("bold")
    axes.set_ylim(height - 0.6, -0.7)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="both", labelsize=TEXT, length=0)
    percents(axes.xaxis, comparison.infos[metric])
    axes.set_xlabel(metric_name(comparison.infos[metric]), fontsize=TEXT, color=INK)
    return fig


def _metric(comparison: Comparison) -> str:
    return USUAL if USUAL in comparison.metrics else comparison.metrics[0]


def _looks(comparison: Comparison) -> dict[str, Look]:
    return looks_of((row.label, row.attack) for row in comparison.rows)


def _rows(comparison: Comparison, target: str) -> list[Row]:
    return [row for row in comparison.rows if row.target == target]


def _queries(row: Row) -> float | None:
    """Images for each person; None where a part was not recorded."""
    parts = [
        row.cost.get(f"{stage}_queries_{way}") for stage in ("prepare", "attack") for way in ("forward", "backward")
    ]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _by_person(row: Row, metric: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Values of the people, mean over seeds, in descending order; None where a run has none for each person."""
    try:
        values = [per_identity(open_run(run), metric).to_numpy(dtype=np.float64) for run in row.runs]
    except MibenchError:
        return None
    mean = np.mean(values, axis=0)
    return None if np.isnan(mean).any() else np.sort(mean)[::-1]


@contextmanager
def _panels(comparison: Comparison, width: float) -> Iterator[tuple[Figure, dict[str, Axes]]]:
    """A figure with a panel for each target; what is beside the last one stays empty."""
    targets = comparison.targets
    columns = min(len(targets), 1 if width < 5 else 3)
    rows = -(-len(targets) // columns)
    fig = figure(width, 1.9 * rows + 0.5)
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[len(targets) :]:
        axes.set_visible(False)
    panels = dict(zip(targets, grid, strict=False))
    for axes in panels.values():
        tidy(axes)
    yield fig, panels


def _finish(comparison: Comparison, fig: Figure, panels: dict[str, Axes], across: str, metric: str) -> None:
    """Names of axes and panels, and one legend for all, outside of them."""
    handles: dict[str, Any] = {}
    for target, axes in panels.items():
        axes.tick_params(labelsize=TEXT)
        axes.set_xlabel(across, fontsize=TEXT, color=INK)
        spec = axes.get_subplotspec()
        if spec is None or spec.is_first_col():
            axes.set_ylabel(metric_name(comparison.infos[metric]), fontsize=TEXT, color=INK)
        percents(axes.yaxis, comparison.infos[metric])
        if len(panels) > 1:
            axes.set_title(target, fontsize=TEXT, loc="left", color=INK)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        fig.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=2 if fig.get_figwidth() < 5 else 4,
            fontsize=TEXT,
            frameon=False,
        )


def _mark(axes: Axes, x: float, y: float, look: Look, row: Row) -> None:
    axes.scatter(
        [x],
        [y],
        s=MARK,
        marker=look.marker,
        edgecolors=look.colour,
        facecolors="white" if row.floor else look.colour,
        linewidths=1,
        zorder=3,
        label=title_of(row.label, row.attack),
    )
