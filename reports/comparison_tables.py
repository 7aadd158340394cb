"""A comparison as tables: the same table objects become CSV, Markdown, LaTeX and what a terminal shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from mibench.results import absent_notes

from . import formats
from .comparison import Comparison, Row
from .formats import DETECTABLE, NOT_TOLD_APART, Block, counts, note_on_tests, validity
from .formatting import sentence
from .judges import ERROR_NOTE, errors_table, judge_tables
from .significance import Difference
from .table_model import (
    Cell,
    Column,
    Kind,
    Table,
    csv_text,
    estimate_cell,
    interval_column,
    text_cells,
    value_text,
    write_text,
)

_COST_NOTE = (
    "Costs are divided among the identities: images shown to the victim forwards and backwards, seconds; “prepare” is "
    "done once for all identities."
)
COSTS = {
    "prepare_queries_forward": "forward, prepare",
    "prepare_queries_backward": "backward, prepare",
    "attack_queries_forward": "forward, attack",
    "attack_queries_backward": "backward, attack",
    "prepare_seconds": "s, prepare",
    "attack_seconds": "s, attack",
    "peak_memory_bytes": "peak memory (MB)",
    "prior_queries_forward": "forward, prior's training (once)",
}


def rows_table(comparison: Comparison) -> Table:
    """Every row with everything known about it."""
    names = comparison.metrics
    columns = [
        Column(name="target", title="target"),
        Column(name="row", title=""),
        *(Column(name=name, title=None) for name in ("attack", "protocol", "dataset", "floor")),
        Column(name="prior", title="prior"),
        Column(name="n_identities", title="identities", kind="count"),
        Column(name="n_seeds", title="seeds", kind="count"),
        *(Column(name=name, title=None) for name in ("seeds", "runs", "devices")),
    ]
    for name in names:
        info = comparison.infos[name]
        better = next(
            (e.higher_is_better for row in comparison.rows if (e := row.estimates.get(name)) is not None), None
        )
        kind: Kind = "share" if info.percent else "number"
        columns.append(interval_column(name, info.heading, kind, better))
        columns += [Column(name=f"{name}_seed_{end}", title=None, kind=kind) for end in ("low", "high", "sd")]
        columns.append(Column(name=f"{name}_reason", title=None))
    columns.append(Column(name="acc1_seeds", title="over seeds (%)"))
    for name, title in COSTS.items():
        kind = "megabytes" if name == "peak_memory_bytes" else "number" if "seconds" in name else "count"
        columns.append(Column(name=name, title=title, kind=kind))
    rows = tuple(_row_cells(comparison, row, names) for row in comparison.rows)
    return Table(name="comparison", title="Comparison", columns=tuple(columns), rows=rows)


def differences_table(comparison: Comparison) -> Table:
    """Every pair and metric."""
    columns = (
        Column(name="target", title="target"),
        Column(name="first", title="first"),
        Column(name="second", title="second"),
        Column(name="metric", title="metric"),
        interval_column("difference", "first − second", "number"),
        Column(name="p_value", title=None, kind="p"),
        Column(name="p_holm", title="p (Holm)", kind="p"),
        Column(name="detectable", title="detectable", kind="number"),
        Column(name="stronger", title="stronger"),
        Column(name="p_bootstrap", title=None, kind="p"),
        Column(name="n_identities", title=None, kind="count"),
        Column(name="family", title=None, kind="count"),
        Column(name="reason", title="not tested because"),
    )
    rows = tuple(_difference_cells(comparison, each) for each in comparison.differences)
    return Table(name="differences", title="Differences", columns=columns, rows=rows, lead=3)


def overall_table(comparison: Comparison) -> Table | None:
    """acc@1: attacks down, targets across; None with one target."""
    if len(comparison.targets) < 2 or "acc1" not in _shown_metrics(comparison):
        return None
    labels = list(dict.fromkeys(row.label for row in sorted(comparison.rows, key=lambda row: row.floor)))
    row_of = {(row.label, row.target): row for row in comparison.rows}
    columns = [Column(name="row", title="")]
    columns += [interval_column(target, target, "share", better=True) for target in comparison.targets]
    rows = []
    for label in labels:
        cells = [Cell(value=label)]
        for target in comparison.targets:
            row = row_of.get((label, target))
            cells.append(Cell(value=None) if row is None else _estimate_cell(comparison, row, "acc1"))
        rows.append(tuple(cells))
    return Table(name="overall", title="acc@1 by target", columns=tuple(columns), rows=tuple(rows))


def tables_for_people(comparison: Comparison) -> tuple[list[Table], list[Table]]:
    """What is printed: tables of rows (overall, then for each target results and cost) and tables of differences."""
    whole, tests = rows_table(comparison), differences_table(comparison)
    overall = overall_table(comparison)
    results = [] if overall is None else [overall]
    pairs = []
    several = any(len(row.seeds) > 1 for row in comparison.rows)
    measured = ["row", *_shown_metrics(comparison)]
    if several and "acc1" in measured:
        measured.insert(measured.index("acc1") + 1, "acc1_seeds")
    if counts(comparison.rows) is None:
        measured += ["n_identities", "n_seeds"]
    priors = len({row.prior for row in comparison.rows}) > 1
    costs = ["row", *(["prior"] if priors else []), *_costs_that_matter(comparison)]
    tested = [column.name for column in tests.columns if column.name not in ("target", None) and column.title]
    for number, target in enumerate(comparison.targets):

        def on_target(cells: dict[str, Cell], target: str = target) -> bool:
            return cells["target"].value == target

        results.append(whole.part(f"results-{number}", f"Target {target}", measured, on_target))
        if _shows_costs(comparison):
            cost = whole.part(f"cost-{number}", f"Cost per identity, target {target}", costs, on_target)
            results.append(dataclasses.replace(cost, notes=(validity(comparison.rows, comparison.mixed), _COST_NOTE)))
        part = tests.part(f"differences-{number}", f"Differences, target {target}", tested, on_target)
        if part.rows:
            pairs.append(part)
    return results, pairs


def notes_for_rows(comparison: Comparison) -> list[str]:
    """Sentences below the tables of rows, warnings first."""
    notes = [validity(comparison.rows, comparison.mixed)]
    notes.append("Brackets: 95 % interval over identities. Arrows: which way the attack does better.")
    if any(len(row.seeds) > 1 for row in comparison.rows):
        names = [name for name in _shown_metrics(comparison) if _without_interval(comparison, name)]
        apart = [comparison.infos[name].title for name in names]
        without = f" {', '.join(apart)}: mean of the seeds, which have no interval in common." if apart else ""
        notes.append(
            "Seeds are pooled: an identity's value is its mean over the seeds; “over seeds” is the lowest and the "
            f"highest seed.{without}"
        )
    notes.append(
        "Bold: stronger than every other row of its target (Holm, 5 %); a column without bold has no such row."
    )
    if _shows_costs(comparison):
        notes.append(_COST_NOTE)
    if errors_table(comparison.judges).rows:
        notes.append(ERROR_NOTE)
    notes += [sentence(note) for note in comparison.notes]
    return notes + _absent(comparison)


def notes_for_differences(comparison: Comparison) -> list[str]:
    """Sentences below the tables of differences."""
    if not comparison.family:
        return ["Nothing was tested."]
    return [
        note_on_tests(comparison.family),
        DETECTABLE,
        f"No entry under “stronger” {NOT_TOLD_APART}",
    ]


def render(comparison: Comparison, kind: str, *, width: int = 110) -> str:
    """The comparison as text, Markdown, CSV (rows only) or LaTeX."""
    return formats.render(rows_table(comparison), blocks(comparison), kind, width=width)


def write_all(comparison: Comparison, folder: Path) -> list[Path]:
    """CSV, Markdown and LaTeX of rows and of differences, and figures; of every metric, whichever were asked for."""
    from .figures.comparison import comparison_plot
    from .figures.style import save
    from .figures.verdict import has_verdict, verdict_plot

    comparison = dataclasses.replace(comparison, requested=())
    files = []
    exact = (rows_table(comparison), differences_table(comparison))
    if (errors := errors_table(comparison.judges)).rows:
        files.append(write_text(folder / f"{errors.name}.csv", csv_text(errors)))
    for table, block in zip(exact, blocks(comparison), strict=True):
        files.append(write_text(folder / f"{table.name}.csv", csv_text(table)))
        files.append(write_text(folder / f"{table.name}.md", block.markdown().lstrip("\n")))
        files.append(write_text(folder / f"{table.name}.tex", block.latex()))
    files += save(comparison_plot(comparison), folder, "comparison")
    if has_verdict(comparison):
        files += save(verdict_plot(comparison), folder, "verdict")
    return files


def blocks(comparison: Comparison) -> tuple[Block, Block]:
    """What people read: rows, then differences."""
    rows, differences = tables_for_people(comparison)
    left_out = [f"Left out: {note}." for note in comparison.left_out]
    rows += judge_tables(comparison.judges, comparison.requested)
    return (
        Block(tables=rows, notes=notes_for_rows(comparison), left_out=left_out),
        Block(tables=differences, notes=notes_for_differences(comparison)),
    )


def _row_cells(comparison: Comparison, row: Row, names: Sequence[str]) -> tuple[Cell, ...]:
    cells = [
        *text_cells(row.target, row.label, row.attack, row.protocol, row.dataset),
        *text_cells("true" if row.floor else "false", row.prior),
        Cell(value=row.identities),
        Cell(value=len(row.seeds)),
        *text_cells(" ".join(str(seed) for seed in row.seeds), " ".join(row.runs), "; ".join(row.devices)),
    ]
    for name in names:
        cells.append(_estimate_cell(comparison, row, name))
        cells += [Cell(value=value) for value in _spread(row, name)]
        estimate = row.estimates.get(name)
        cells.append(Cell(value=(estimate.reason if estimate is not None else "it was not computed") or ""))
    low, high, _ = _spread(row, "acc1")
    seeds = "" if low is None or high is None else f"{value_text('share', low)} to {value_text('share', high)}"
    return (*cells, Cell(value=seeds), *(Cell(value=row.cost[name]) for name in COSTS))


def _spread(row: Row, name: str) -> tuple[float | None, float | None, float | None]:
    """Lowest and highest seed and their standard deviation; None for a single seed."""
    values = [value for value in row.by_seed.get(name, ()) if value is not None]
    if len(values) < 2 or len(values) < len(row.seeds):
        return None, None, None
    centre = sum(values) / len(values)
    return min(values), max(values), math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))


def _estimate_cell(comparison: Comparison, row: Row, name: str) -> Cell:
    return estimate_cell(row.estimates.get(name), stands_out=comparison.stands_out(row, name))


def _difference_cells(comparison: Comparison, each: Difference) -> tuple[Cell, ...]:
    estimate, info = each.estimate, comparison.infos[each.metric]
    kind: Kind = "points" if info.percent else "number"
    return (
        *text_cells(each.target, each.first, each.second),
        Cell(value=each.metric, title=info.title),
        estimate_cell(estimate, kind=kind),
        Cell(value=each.p_value),
        Cell(value=each.p_holm),
        Cell(value=each.detectable, kind=kind),
        Cell(value=each.stronger or ""),
        Cell(value=estimate.params.get("p_bootstrap")),
        Cell(value=estimate.n),
        Cell(value=comparison.family),
        Cell(value=estimate.reason or ""),
    )


def _costs_that_matter(comparison: Comparison) -> list[str]:
    """All costs, but the queries of the prior's training only where some prior queried the victim."""
    queried = any(row.cost["prior_queries_forward"] for row in comparison.rows)
    return [name for name in COSTS if queried or name != "prior_queries_forward"]


def _shown_metrics(comparison: Comparison) -> list[str]:
    """Metrics that people see: all there are, or those that were asked for."""
    return [name for name in comparison.metrics if not comparison.requested or name in comparison.requested]


def _shows_costs(comparison: Comparison) -> bool:
    """Whether people see costs: not when they asked for certain metrics."""
    recorded = any(row.cost[name] is not None for row in comparison.rows for name in COSTS)
    return recorded and not comparison.requested


def _absent(comparison: Comparison) -> list[str]:
    return absent_notes(
        (comparison.infos[name].title, estimate)
        for row in comparison.rows
        for name, estimate in row.estimates.items()
        if not comparison.requested or name in comparison.requested
    )


def _without_interval(comparison: Comparison, name: str) -> bool:
    """Whether a row of several seeds has a value and no interval."""
    estimates = [row.estimates[name] for row in comparison.rows if len(row.seeds) > 1 and name in row.estimates]
    return any(estimate.value is not None and estimate.low is None for estimate in estimates)
