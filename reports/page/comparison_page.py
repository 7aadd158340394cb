"""The page of several runs: attacks on each target, or defences with their frontier, and everybody in one table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from mibench.reports import comparison_tables, matrix_tables, tables
from mibench.reports.compare import compare_attacks
from mibench.reports.compare_defences import compare_defences
from mibench.reports.comparison import Comparison, Row
from mibench.reports.figures.comparison import comparison_plot
from mibench.reports.figures.frontier import frontier_plot
from mibench.reports.formats import Block
from mibench.reports.formatting import FLOOR, hides_faces, run_labels
from mibench.reports.matrix import Matrix
from mibench.reports.table_model import Column, Table, estimate_cell, interval_column, text_cells
from mibench.results import ComparedBy, StoredRun, estimate_text

from .charts import chart
from .elements import PageTable, page_table
from .environment import page
from .faces import WHY_HIDDEN, PrivateImages
from .faces_compared import ShownRow, compared_faces

MOST_ROWS = 20_000  # of the table of people: more are in tables/identities.csv of each run


def comparison_page(
    runs: Sequence[StoredRun], by: ComparedBy | None, private: PrivateImages | None, *, show_faces: bool
) -> str:
    """HTML of several finished runs.

    Args:
        runs: floors among them are shown, too.
        by: what the rows are; None: defences where some target has one, else attacks.
        private: gives private images of identities.
        show_faces: show faces although the people may be real.

    Raises:
        MibenchError: runs that must not be compared.
    """
    chosen = by or ("defence" if any(run.attacked.get("defence") for run in runs) else "attack")
    if chosen == "defence":
        matrix = compare_defences(list(runs))
        title, blocks, findings = "Defences under attack", matrix_tables.blocks(matrix), _of_defences(matrix)
        rows = _shown_defences(matrix, runs)
        drawing = chart(
            lambda: frontier_plot(matrix),
            "chart-comparison",
            "Privacy against utility",
            "Test accuracy of each classifier across, leakage upwards; the tables have the numbers.",
        )
    else:
        comparison = compare_attacks(list(runs))
        title, blocks, findings = "Attacks side by side", comparison_tables.blocks(comparison), _of_attacks(comparison)
        rows = _shown_attacks(comparison, runs)
        drawing = chart(
            lambda: comparison_plot(comparison),
            "chart-comparison",
            "Attacks side by side",
            "A dot with its interval for every attack and target; the tables have the numbers.",
        )
    hidden = any(hides_faces(run, False if show_faces else None) for run in runs)
    attacks = [run for run in runs if run.attack != FLOOR and not run.sees_private] or list(runs)
    sizes = (
        _counted(len(attacks), "run"),
        _counted(len({run.attack_title for run in attacks}), "attack"),
        _counted(len({run.target for run in attacks}), "target"),
    )
    content = {
        "title": title,
        "headline": "{} of {} against {}".format(*sizes)
        + f"; data set {runs[0].dataset}, protocol {runs[0].protocol}.",
        "findings": findings,
        "chart": drawing,
        "blocks": _blocks(blocks),
        "people": _people(attacks),
        "faces": compared_faces(rows, private, hidden=hidden, why=WHY_HIDDEN),
        "runs": runs_table(runs),
    }
    return page("comparison.html", content)


def _of_attacks(comparison: Comparison) -> list[str]:
    """For each target, which attack gets the most out of it, and whether that is more than chance."""
    findings = []
    for target in comparison.targets:
        rows = [row for row in comparison.rows if row.target == target and not row.floor and not row.sees_private]
        known = [(value, row) for row in rows if (value := _accuracy(row)) is not None]
        if not known:
            continue
        best = max(known, key=lambda pair: pair[0])[1]
        sure = comparison.stands_out(best, "acc1")
        tested = "more than every other row" if sure else "not told apart from every other row"
        text = estimate_text(best.estimates["acc1"], comparison.infos.get("acc1"))
        findings.append(f"{target}: {best.label} has the highest acc@1, {text}, {tested}.")
    return findings


def _of_defences(matrix: Matrix) -> list[str]:
    """For each attack, which defences leak less or more than what they are compared with."""
    findings = []
    for attack in matrix.attacks:
        for verdict in ("leaks less", "leaks more"):
            rows = [each for each in matrix.differences if each.attack == attack and each.verdict == verdict]
            if rows:
                names = ", ".join(dict.fromkeys(f"{each.defence} ({matrix.infos[each.metric].title})" for each in rows))
                findings.append(f"Under {attack}, {verdict.replace('leaks', 'leaking')} than its reference: {names}.")
    return findings or ["No defence is told apart from what it is compared with."]


def _shown_attacks(comparison: Comparison, runs: Sequence[StoredRun]) -> list[ShownRow]:
    """The first seed of every row, attacks on a target beside each other."""
    by_path = {str(run.path): run for run in runs}
    several = len(comparison.targets) > 1
    return [
        ShownRow(f"{row.label} against {row.target}" if several else row.label, by_path[row.runs[0]])
        for row in comparison.rows
    ]


def _shown_defences(matrix: Matrix, runs: Sequence[StoredRun]) -> list[ShownRow]:
    """The first seed of every row, defences under an attack beside each other; floors only where nothing else is."""
    by_path = {str(run.path): run for run in runs}
    columns = [attack for attack in matrix.attacks if attack not in matrix.floors] or list(matrix.attacks)
    names = {row.label: row.label if len(matrix.groups) == 1 else f"{row.label}, {row.group}" for row in matrix.rows}
    return [
        ShownRow(
            names[row.label] if len(columns) == 1 else f"{names[row.label]} under {attack}",
            by_path[row.attacks[attack].runs[0]],
        )
        for attack in columns
        for row in matrix.rows
        if attack in row.attacks
    ]


def _accuracy(row: Row) -> float | None:
    estimate = row.estimates.get("acc1")
    return None if estimate is None or estimate.value is None else float(estimate.value)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


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


def _blocks(blocks: Sequence[Block]) -> list[tuple[list[PageTable], list[str]]]:
    """Tables with the notes below them; a note of several tables stands once, below all of them."""
    found = [
        (
            [page_table(table, f"table-{number}-{place}") for place, table in enumerate(block.tables)],
            [*block.notes, *block.left_out],
        )
        for number, block in enumerate(blocks)
        if block.tables
    ]
    counts = Counter(
        note for tables, notes in found for note in [*(n for table in tables for n in table.notes), *notes]
    )
    shared = [note for note, count in counts.items() if count > 1]
    apart = [
        (
            [
                dataclasses.replace(table, notes=[note for note in table.notes if note not in shared])
                for table in tables
            ],
            [note for note in notes if note not in shared],
        )
        for tables, notes in found
    ]
    return [*apart, ([], shared)] if shared else apart


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
    return page_table(shortened, "people-table", sortable=True, choices=("run",), measured=True)
