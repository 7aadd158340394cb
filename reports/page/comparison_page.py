"""The page of several runs: attacks on each target, or defences with their frontier, and everybody in one table."""

from __future__ import annotations

from collections.abc import Sequence

from mibench.reports import comparison_tables, matrix_tables, tables
from mibench.reports.compare import compare_attacks
from mibench.reports.compare_defences import compare_defences
from mibench.reports.figures.comparison import comparison_plot
from mibench.reports.figures.frontier import frontier_plot
from mibench.reports.formats import Block
from mibench.reports.formatting import FLOOR, run_labels
from mibench.reports.table_model import Column, Table, estimate_cell, interval_column, text_cells
from mibench.results import ComparedBy, StoredRun

from .charts import chart
from .elements import PageTable, page_table
from .environment import page

MOST_ROWS = 20_000  # of the table of people: more are in tables/identities.csv of each run


def comparison_page(runs: Sequence[StoredRun], by: ComparedBy | None) -> str:
    """HTML of several finished runs.

    Args:
        runs: floors among them are shown, too.
        by: what the rows are; None: defences where some target has one, else attacks.

    Raises:
        MibenchError: runs that must not be compared.
    """
    chosen = by or ("defence" if any(run.attacked.get("defence") for run in runs) else "attack")
    if chosen == "defence":
        matrix = compare_defences(list(runs))
        title, blocks = "Defences under attack", matrix_tables.blocks(matrix)
        drawing = chart(
            lambda: frontier_plot(matrix),
            "chart-comparison",
            "Privacy against utility",
            "Test accuracy of each classifier across, leakage upwards; the tables have the numbers.",
        )
    else:
        comparison = compare_attacks(list(runs))
        title, blocks = "Attacks side by side", comparison_tables.blocks(comparison)
        drawing = chart(
            lambda: comparison_plot(comparison),
            "chart-comparison",
            "Attacks side by side",
            "A dot with its interval for every attack and target; the tables have the numbers.",
        )
    attacks = [run for run in runs if run.attack != FLOOR] or list(runs)
    first = runs[0]
    content = {
        "title": title,
        "headline": (
            f"{len(attacks)} run{'s' if len(attacks) > 1 else ''} of {len({run.attack_title for run in attacks})} "
            f"attack{'s' if len({run.attack_title for run in attacks}) > 1 else ''} against "
            f"{len({run.target for run in attacks})} target{'s' if len({run.target for run in attacks}) > 1 else ''}; "
            f"data set {first.dataset}, protocol {first.protocol}."
        ),
        "chart": drawing,
        "blocks": [_block(block, number) for number, block in enumerate(blocks) if block.tables],
        "people": _people(attacks),
        "runs": runs_table(runs),
    }
    return page("comparison.html", content)


def runs_table(runs: Sequence[StoredRun]) -> PageTable:
    """A row per run, so that each can be told from the others."""
    columns = (
        Column(name="run", title="run"),
        Column(name="attack", title="attack"),
        Column(name="target", title="target"),
        Column(name="seed", title="seed"),
        interval_column("acc1", "acc@1", "percent", better=True),
        Column(name="digest", title="digest"),
    )
    rows = tuple(
        (
            *text_cells(run.path.name, run.attack_title, run.target, str(run.seed)),
            estimate_cell(run.metrics.get("acc1")),
            *text_cells(str(run.record.get("digest", ""))[:8]),
        )
        for run in runs
    )
    table = Table(name="runs", title="Runs", columns=columns, rows=rows, notes=())
    return page_table(table, "runs-table", sortable=True, choices=("attack", "target"))


def _block(block: Block, number: int) -> tuple[list[PageTable], list[str]]:
    return (
        [page_table(table, f"table-{number}-{place}") for place, table in enumerate(block.tables)],
        [*block.notes, *block.left_out],
    )


def _people(runs: Sequence[StoredRun]) -> PageTable:
    """A row per run and identity."""
    labels = run_labels(runs)
    if len(set(labels)) < len(labels):
        labels = [run.path.name for run in runs]
    table = tables.identities(list(zip(labels, runs, strict=True)))
    notes = list(table.notes or ())
    if len(table.rows) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS:,} of {len(table.rows):,} rows; tables/identities.csv of a run has all.")
    shortened = Table(
        name="people",
        title="People under each attack",
        columns=table.columns,
        rows=table.rows[:MOST_ROWS],
        lead=2,
        notes=tuple(notes),
    )
    return page_table(shortened, "people-table", sortable=True, choices=("run",))
