"""A comparison as tables: the same table objects become CSV, Markdown, LaTeX and what a terminal shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from mibench.api import MibenchError
from mibench.results import absent_notes

from .comparison import Comparison, Row
from .formatting import sentence
from .significance import Difference
from .table_model import (
    Cell,
    Column,
    Kind,
    Table,
    csv_text,
    estimate_cell,
    interval_column,
    markdown_text,
    text_cells,
    value_text,
    write_text,
)

_COST_NOTE = (
    "Costs are divided among the identities: images shown to the victim forwards and backwards, seconds; “prepare” is "
    "done once for all identities."
)
KINDS = ("text", "markdown", "csv", "latex")
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
    if _counts(comparison) is None:
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
            results.append(dataclasses.replace(cost, notes=(_context(comparison), _COST_NOTE)))
        part = tests.part(f"differences-{number}", f"Differences, target {target}", tested, on_target)
        if part.rows:
            pairs.append(part)
    return results, pairs


def notes_for_rows(comparison: Comparison) -> list[str]:
    """Sentences below the tables of rows, warnings first."""
    notes = [_context(comparison)]
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
        "Bold: found stronger than every other row of its target (Holm, 5 %); a column without bold has no such row."
    )
    if _shows_costs(comparison):
        notes.append(_COST_NOTE)
    notes += [sentence(note) for note in comparison.notes]
    return notes + _absent(comparison)


def left_out(comparison: Comparison) -> list[str]:
    """Sentences on runs that were not used."""
    return [f"Left out: {note}." for note in comparison.left_out]


def notes_for_differences(comparison: Comparison) -> list[str]:
    """Sentences below the tables of differences."""
    if not comparison.family:
        return ["Nothing was tested."]
    return [
        "Paired over identities, 95 % interval. p: two-sided sign-flip test, adjusted by Holm for all "
        f"{comparison.family} tests shown.",
        "Detectable: the true difference that one such test at 5 %, not adjusted, would find in 80 % of cases.",
        "No entry under “stronger” means not told apart, which is not the same as equal.",
    ]


def render(comparison: Comparison, kind: str, *, width: int = 110) -> str:
    """The comparison as text, Markdown, CSV (rows only) or LaTeX."""
    if kind not in KINDS:
        raise MibenchError(f"unknown format {kind!r} (known: {', '.join(KINDS)})")
    if kind == "csv":
        return csv_text(rows_table(comparison))
    rows, differences = tables_for_people(comparison)
    if kind == "latex":
        from .latex import document

        parts = [document(rows, notes_for_rows(comparison), left_out(comparison))]
        return "\n".join([*parts, document(differences, notes_for_differences(comparison))])
    limit = width if kind == "text" else None
    parts = [markdown_text(rows, notes_for_rows(comparison) + left_out(comparison), limit)]
    if differences:
        parts.append(markdown_text(differences, notes_for_differences(comparison), limit))
    return "\n".join(parts)


def write_all(comparison: Comparison, folder: Path) -> list[Path]:
    """CSV, Markdown and LaTeX of rows and of differences, and the figure; of every metric, whichever were asked for."""
    from .figures.comparison import comparison_plot
    from .figures.style import save
    from .latex import document

    comparison = dataclasses.replace(comparison, requested=())
    rows, differences = tables_for_people(comparison)
    files = []
    for table, parts, notes, aside in (
        (rows_table(comparison), rows, notes_for_rows(comparison), left_out(comparison)),
        (differences_table(comparison), differences, notes_for_differences(comparison), []),
    ):
        files.append(write_text(folder / f"{table.name}.csv", csv_text(table)))
        files.append(write_text(folder / f"{table.name}.md", markdown_text(parts, [*notes, *aside]).lstrip("\n")))
        files.append(write_text(folder / f"{table.name}.tex", document(parts, notes, aside)))
    return files + save(comparison_plot(comparison), folder, "comparison")


def as_plain(comparison: Comparison) -> dict[str, object]:
    """The comparison as JSON types; numbers that are not finite are null."""
    return {name: _plain(value) for name, value in dataclasses.asdict(comparison).items()}


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


def _context(comparison: Comparison) -> str:
    """What the numbers hold for, or the warning that they hold for different things."""
    if comparison.mixed:
        more = " and more" if len(comparison.mixed) > 3 else ""
        return (
            f"WARNING: these rows do not share their {', '.join(comparison.mixed[:3])}{more}: their numbers do not "
            "compare, and no test was made across."
        )
    counts = _counts(comparison)
    size = "" if counts is None else f", {counts[0]} identities, {counts[1]} seed{'s' if counts[1] > 1 else ''}"
    return f"Data set {comparison.rows[0].dataset}, protocol {comparison.rows[0].protocol}{size}."


def _counts(comparison: Comparison) -> tuple[int, int] | None:
    """Identities and seeds of every row; None when rows differ."""
    counts = {(row.identities, len(row.seeds)) for row in comparison.rows}
    return counts.pop() if len(counts) == 1 else None


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


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
