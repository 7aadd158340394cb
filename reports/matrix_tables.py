"""A matrix of defences as tables: the same table objects become CSV, Markdown, LaTeX and what a terminal shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from mibench.api import MibenchError
from mibench.results import absent_notes

from .formatting import sentence
from .masking import masking_notes
from .matrix import Defended, Matrix
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

KINDS = ("text", "markdown", "csv", "latex")
_LONG = (
    *("group", "defence", "card", "role", "reference", "test_accuracy", "test_images", "seconds", "relative_seconds"),
    *("attack", "floor", "n_identities", "n_seeds", "seeds", "metric", "value", "difference", "p_value", "p_holm"),
    *("n", "detectable", "verdict", "family", "reason", "reported", "reported_source", "masking", "masking_signs"),
    *("settings", "runs"),
)
_WITH_BOUNDS = {"test_accuracy", "value", "difference"}


def matrix_table(matrix: Matrix, group: str) -> Table:
    """Rows defences; utility, then for each attack leakage and the difference to the reference, then costs."""
    rows = [row for row in matrix.rows if row.group == group]
    columns = [
        Column(name="defence", title="defence"),
        interval_column("test_accuracy", "utility", "share"),
        Column(name="reported", title="reported"),
    ]
    several = len(matrix.infos) > 1
    for attack in matrix.attacks:
        for name, info in matrix.infos.items():
            kind: Kind = "share" if info.percent else "number"
            better = info.higher_is_better
            columns.append(Column(name=f"{attack} {name}", title=info.heading, kind=kind, better=better, group=attack))
            if attack not in matrix.floors:
                title = f"{info.title} − twin" if several else "− twin"
                kind = "points" if info.percent else "number"
                columns.append(Column(name=f"{attack} {name} difference", title=title, kind=kind, group=attack))
    for name, info in matrix.infos.items():
        title = f"strongest ({info.title})" if several else "strongest"
        columns.append(Column(name=f"strongest {name}", title=title))
    columns.append(Column(name="masking", title="masking"))
    columns.append(Column(name="relative_seconds", title="training ×", kind="number"))
    body = tuple(_cells(matrix, row) for row in rows)
    whole = Table(name="", title="", columns=tuple(columns), rows=body)
    names = [column.name or "" for column in columns]
    number = matrix.groups.index(group)
    return whole.part(f"defences-{number}", f"Defences of {group}", names, lambda _: True)


def differences_table(matrix: Matrix, group: str) -> Table:
    """Every test of a group."""
    columns = (
        Column(name="defence", title="defence"),
        Column(name="attack", title="attack"),
        Column(name="reference", title="twin"),
        Column(name="metric", title="metric"),
        interval_column("difference", "defence − twin", "number"),
        Column(name="p_holm", title="p (Holm)", kind="p"),
        Column(name="n", title="n", kind="count"),
        Column(name="detectable", title="detectable", kind="number"),
        Column(name="verdict", title="verdict"),
        Column(name="reason", title="not tested because"),
    )
    body = []
    order = [row.label for row in matrix.rows if row.group == group]
    ours = [each for each in matrix.differences if each.group == group]
    for each in sorted(ours, key=lambda each: order.index(each.defence)):
        info = matrix.infos[each.metric]
        kind: Kind = "points" if info.percent else "number"
        body.append(
            (
                *text_cells(each.defence, each.attack, each.reference),
                Cell(value=each.metric, title=info.title),
                estimate_cell(each.estimate, kind=kind),
                Cell(value=each.p_holm),
                Cell(value=each.estimate.n or None),
                Cell(value=each.detectable, kind=kind),
                *text_cells(each.verdict or "", each.estimate.reason or ""),
            )
        )
    number = matrix.groups.index(group)
    whole = Table(name="", title="", columns=columns, rows=tuple(body), lead=2)
    names = [column.name or "" for column in columns]
    return whole.part(f"differences-{number}", f"Differences to the twin, {group}", names, lambda _: True)


def long_table(matrix: Matrix) -> Table:
    """A line per row, attack and metric with everything known about it: for programs."""
    columns = tuple(
        Column(name=name, title=None, bounds=(f"{name}_low", f"{name}_high") if name in _WITH_BOUNDS else None)
        for name in _LONG
    )
    body = []
    for row in matrix.rows:
        for attack, name in [(attack, name) for attack in matrix.attacks for name in matrix.infos]:
            if attack in row.attacks:
                body.append(_long_cells(matrix, row, attack, name))
    return Table(name="defences", title="Defences", columns=columns, rows=tuple(body))


def notes_for_rows(matrix: Matrix) -> list[str]:
    """Sentences below the tables of rows, warnings first."""
    rows = [cell for row in matrix.rows for cell in row.attacks.values()]
    if matrix.mixed:
        notes = [
            f"WARNING: the runs do not share their {', '.join(matrix.mixed[:3])}: their numbers do not compare, and no "
            "test was made across."
        ]
    else:
        sizes = {(row.identities, len(row.seeds)) for row in rows}
        size = (
            "".join(f", {n} identities, {seeds} seed{'s' * (seeds > 1)}" for n, seeds in sizes)
            if len(sizes) < 2
            else ""
        )
        notes = [f"Data set {rows[0].dataset}, protocol {rows[0].protocol}{size}."]
    notes.append(
        "Utility: test accuracy, with the interval of a share over test images. Leakage: brackets are 95 % intervals "
        "over identities; arrows: which way the attack does better; “− twin”: the difference to the undefended twin "
        "under the same attack, bold where it is not chance (Holm, 5 %)."
    )
    if any(row.relative_seconds is not None for row in matrix.rows):
        notes.append("Training ×: seconds of the training as a multiple of the twin's.")
    if any(row.role == "control" for row in matrix.rows):
        notes.append("A control is expected to leak more; it is no defence.")
    notes += [sentence(note) for note in matrix.notes]
    shown = [row for row in matrix.rows if row.twin or row.role != "undefended"]
    elsewhere = [row.label for row in shown if any(each.mismatch for each in row.reported)]
    if elsewhere:
        notes.append(
            f"Published values of {', '.join(elsewhere)} are not shown: they hold for other data, models or settings "
            "(reports/published.csv)."
        )
    known = [each for row in matrix.rows for each in row.reported if each.values]
    if known:
        sources = dict.fromkeys(source for each in known for source in each.sources)
        notes.append(f"Reported: published test accuracy of the same setting, {'; '.join(sources)}.")
    several = len(matrix.groups) > 1
    masking = {
        f"{row.label} of {row.group}" if several else row.label: row.masking
        for row in matrix.rows
        if row.masking is not None
    }
    notes += masking_notes(masking, matrix.masking_family) if masking else ()
    return notes + absent_notes(
        (matrix.infos[name].title, estimate) for row in rows for name, estimate in row.estimates.items()
    )


def notes_for_differences(matrix: Matrix) -> list[str]:
    """Sentences below the tables of differences."""
    if not matrix.family:
        return ["Nothing was tested."]
    titles = ", ".join(info.title for info in matrix.infos.values())
    return [
        "Paired over identities, 95 % interval. p: two-sided sign-flip test, adjusted by Holm for all "
        f"{matrix.family} tests shown: {titles} of every row but the twins, under every attack but the floor.",
        "Detectable: the true difference that one such test at 5 %, not adjusted, would find in 80 % of cases. No "
        "verdict means not told apart, which is not the same as equal.",
    ]


def render(matrix: Matrix, kind: str, *, width: int = 110) -> str:
    """The matrix as text, Markdown, CSV (a line per cell) or LaTeX."""
    if kind not in KINDS:
        raise MibenchError(f"unknown format {kind!r} (known: {', '.join(KINDS)})")
    if kind == "csv":
        return csv_text(long_table(matrix))
    rows, differences = _tables(matrix)
    aside = [f"Left out: {note}." for note in matrix.left_out]
    if kind == "latex":
        from .latex import document

        parts = [document(rows, notes_for_rows(matrix), aside)]
        return "\n".join([*parts, document(differences, notes_for_differences(matrix))] if differences else parts)
    limit = width if kind == "text" else None
    parts = [markdown_text(rows, notes_for_rows(matrix) + aside, limit)]
    if differences:
        parts.append(markdown_text(differences, notes_for_differences(matrix), limit))
    return "\n".join(parts)


def write_all(matrix: Matrix, folder: Path) -> list[Path]:
    """``defences`` as CSV, Markdown and LaTeX, and the figure ``frontier``."""
    from .figures.frontier import frontier_plot
    from .figures.style import save

    files = [
        write_text(folder / f"defences.{ending}", render(matrix, kind).lstrip("\n"))
        for ending, kind in (("csv", "csv"), ("md", "markdown"), ("tex", "latex"))
    ]
    return files + save(frontier_plot(matrix), folder, "frontier")


def as_plain(matrix: Matrix) -> dict[str, object]:
    """The matrix as JSON types; numbers that are not finite are null."""
    return {name: _plain(value) for name, value in dataclasses.asdict(matrix).items()}


def _tables(matrix: Matrix) -> tuple[list[Table], list[Table]]:
    rows = [matrix_table(matrix, group) for group in matrix.groups]
    differences = [differences_table(matrix, group) for group in matrix.groups]
    return rows, [table for table in differences if table.rows]


def _cells(matrix: Matrix, row: Defended) -> tuple[Cell, ...]:
    reported = next((each for each in row.reported if not each.attack and each.values), None)
    cells = [
        Cell(value=row.label),
        estimate_cell(row.utility),
        Cell(value=_values(() if reported is None else reported.values)),
    ]
    for attack in matrix.attacks:
        for name in matrix.infos:
            found = row.attacks.get(attack)
            cells.append(estimate_cell(None if found is None else found.estimates.get(name)))
            if attack not in matrix.floors:
                each = matrix.difference(row, attack, name)
                known = None if each is None else each.estimate
                cells.append(estimate_cell(known, stands_out=each is not None and each.verdict is not None))
    cells += [Cell(value=row.strongest.get(name, "")) for name in matrix.infos]
    cells.append(Cell(value="" if row.masking is None else row.masking.verdict))
    return (*cells, Cell(value=row.relative_seconds))


def _long_cells(matrix: Matrix, row: Defended, attack: str, name: str) -> tuple[Cell, ...]:
    found, each = row.attacks[attack], matrix.difference(row, attack, name)
    estimate = found.estimates.get(name)
    reported = next(
        (r for r in row.reported if r.values and (r.attack, r.metric) in ((attack, name), ("", "test_accuracy"))), None
    )
    reason = each.estimate.reason if each is not None else None if estimate is None else estimate.reason
    facts: dict[str, Cell] = {
        **{key: Cell(value=str(getattr(row, key) or "")) for key in ("group", "card", "role", "reference")},
        "defence": Cell(value=row.label),
        "test_accuracy": estimate_cell(row.utility),
        "test_images": Cell(value=row.utility.n or None),
        "seconds": Cell(value=row.seconds),
        "relative_seconds": Cell(value=row.relative_seconds),
        "attack": Cell(value=attack),
        "floor": Cell(value=str(found.floor).lower()),
        "n_identities": Cell(value=found.identities),
        "n_seeds": Cell(value=len(found.seeds)),
        "seeds": Cell(value=" ".join(map(str, found.seeds))),
        "metric": Cell(value=name),
        "value": estimate_cell(estimate),
        "difference": estimate_cell(None if each is None else each.estimate),
        "p_value": Cell(value=None if each is None else each.p_value),
        "p_holm": Cell(value=None if each is None else each.p_holm),
        "n": Cell(value=None if each is None else each.estimate.n),
        "detectable": Cell(value=None if each is None else each.detectable),
        "verdict": Cell(value="" if each is None else each.verdict or ""),
        "family": Cell(value=matrix.family),
        "reason": Cell(value=reason or ""),
        "reported": Cell(value="" if reported is None else " ".join(map(repr, reported.values))),
        "reported_source": Cell(value="" if reported is None else "; ".join(reported.sources)),
        "masking": Cell(value="" if row.masking is None else row.masking.verdict),
        "masking_signs": Cell(
            value="" if row.masking is None else "; ".join(f"{c.name}: {c.text}" for c in row.masking.checks if c.sign)
        ),
        "settings": Cell(value=" ".join(f"{key}={value}" for key, value in row.settings.items())),
        "runs": Cell(value=" ".join(found.runs)),
    }
    return tuple(facts[column] for column in _LONG)


def _values(values: Sequence[float]) -> str:
    """``80.4``, or ``78.9 to 80.4`` where several were published."""
    if not values:
        return ""
    ends = dict.fromkeys(value_text("share", value) for value in (values[0], values[-1]))
    return " to ".join(ends) + " %"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
