"""A matrix of defences as tables: the same table objects become CSV, Markdown, LaTeX and what a terminal shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mibench.results import absent_notes

from . import formats
from .adaptive import AdaptiveAttack, strongest
from .defended import setting_text
from .formats import DETECTABLE, NOT_TOLD_APART, Block, note_on_tests, validity
from .formatting import sentence
from .judges import ERROR_NOTE, errors_table
from .masking import masking_notes
from .matrix import Defended, Matrix
from .matrix_tests import in_one_sentence, reference_name
from .table_model import (
    Cell,
    Column,
    Kind,
    Table,
    estimate_cell,
    interval_column,
    text_cells,
    value_text,
    write_text,
)

_LONG = (
    *("group", "defence", "card", "role", "reference", "test_accuracy", "test_images", "seconds", "relative_seconds"),
    *("attack", "floor", "adaptive", "n_identities", "n_seeds", "seeds", "metric", "value", "difference", "p_value"),
    *("p_holm", "n", "detectable", "verdict", "family", "reason", "reported", "reported_source", "masking"),
    *("masking_signs", "settings", "differs_from_twin", "runs"),
)
UNKNOWN = "–"  # a cost that ought to be there
OTHER_RECIPE = "†"  # behind the name of a row whose training did not follow its twin's recipe
_WITH_BOUNDS = {"test_accuracy", "value", "difference"}


def matrix_table(matrix: Matrix, group: str) -> Table:
    """Rows defences; utility, then for each attack leakage and the difference to the reference, then costs."""
    rows = [row for row in matrix.rows if row.group == group]
    columns = [
        Column(name="defence", title="defence"),
        interval_column("test_accuracy", "utility", "share"),
        Column(name="reported", title="reported"),
    ]
    several, beside = len(matrix.infos) > 1, reference_name(matrix, group)
    for attack in matrix.attacks:
        for name, info in matrix.infos.items():
            kind: Kind = "share" if info.percent else "number"
            better = info.higher_is_better
            columns.append(Column(name=f"{attack} {name}", title=info.heading, kind=kind, better=better, group=attack))
            if attack not in matrix.floors:
                title = f"{info.title} − {beside}" if several else f"− {beside}"
                kind = "gap" if info.percent else "number"
                columns.append(Column(name=f"{attack} {name} difference", title=title, kind=kind, group=attack))
    for name, info in matrix.infos.items():
        title = f"strongest ({info.title})" if several else "strongest"
        columns.append(Column(name=f"strongest {name}", title=title))
    columns += _adaptive_columns(matrix, beside)
    columns.append(Column(name="masking", title="masking"))
    columns.append(Column(name="relative_seconds", title="training ×", kind="number"))
    body = tuple(_cells(matrix, row) for row in rows)
    whole = Table(name="", title="", columns=tuple(columns), rows=body)
    names = [column.name or "" for column in columns]
    number = matrix.groups.index(group)
    part = whole.part(f"defences-{number}", f"Defences of {group}", names, lambda _: True)
    return dataclasses.replace(part, about=in_one_sentence(matrix, group))


def _adaptive_columns(matrix: Matrix, beside: str) -> list[Column]:
    """Name, leakage and difference of the strongest adaptive attack; none where no row has one."""
    columns = []
    for name, info in matrix.infos.items() if any(row.adaptive for row in matrix.rows) else ():
        group = f"strongest adaptive ({info.title})" if len(matrix.infos) > 1 else "strongest adaptive"
        share: Kind = "share" if info.percent else "number"
        points: Kind = "gap" if info.percent else "number"
        prefix, better = f"adaptive {name}", info.higher_is_better
        columns += [
            Column(name=f"{prefix} attack", title="attack", group=group),
            Column(name=prefix, title=info.heading, kind=share, better=better, group=group),
            Column(name=f"{prefix} difference", title=f"− {beside}", kind=points, group=group),
        ]
    return columns


def _adaptive_cells(matrix: Matrix, row: Defended) -> list[Cell]:
    cells = []
    for name in matrix.infos if any(each.adaptive for each in matrix.rows) else ():
        best = strongest(row.adaptive, name)
        cells += [
            Cell(value="" if best is None else best.label),
            estimate_cell(None if best is None else best.estimate),
            estimate_cell(None if best is None else best.difference, stands_out=best is not None and best.stands_out),
        ]
    return cells


def differences_table(matrix: Matrix, group: str) -> Table:
    """Every test of a group; what all of them share is said above the table and is no column."""
    beside, of_one_unit = reference_name(matrix, group), all(info.percent for info in matrix.infos.values())
    columns = (
        Column(name="defence", title="defence"),
        Column(name="attack", title="attack"),
        Column(name="reference", title=beside),
        Column(name="metric", title="metric"),
        interval_column("difference", f"defence − {beside}", "gap" if of_one_unit else "number"),
        Column(name="p_holm", title="p (Holm)", kind="p"),
        Column(name="n", title="n", kind="count"),
        Column(name="detectable", title="detectable", kind="gap" if of_one_unit else "number"),
        Column(name="verdict", title="verdict"),
        Column(name="reason", title="not tested because"),
    )
    body = []
    order = [row.label for row in matrix.rows if row.group == group]
    ours = [each for each in matrix.differences if each.group == group]
    for each in sorted(ours, key=lambda each: order.index(each.defence)):
        info = matrix.infos[each.metric]
        kind: Kind | None = None if of_one_unit else "points" if info.percent else "number"
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
    shared = {name: {getattr(each, name) for each in ours} for name in ("reference", "metric")}
    names = [column.name or "" for column in columns if len(shared.get(column.name or "", "..")) > 1]
    part = whole.part(f"differences-{number}", f"Differences to the {beside}, {group}", names, lambda _: True)
    said = [matrix.infos[name].title for name in shared["metric"] if "metric" not in names]
    said += [f"against {name}" for name in shared["reference"] if "reference" not in names]
    return dataclasses.replace(part, about=f"Under the same attack: {' '.join(said)}." if said else "")


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
        body += [_adaptive_line(matrix, row, each) for each in row.adaptive]
    return Table(name="defences", title="Defences", columns=columns, rows=tuple(body))


def notes_for_rows(matrix: Matrix) -> list[str]:
    """Sentences below the tables of rows, warnings first."""
    rows = [cell for row in matrix.rows for cell in row.attacks.values()]
    notes = [validity(rows, matrix.mixed)]
    named = {reference_name(matrix, group) for group in matrix.groups}
    whom = "undefended twin" if named == {"twin"} else "reference"
    columns = (
        f"; “− {named.pop() if len(named) == 1 else whom}”: the difference to the {whom} under the same attack, bold "
        "where it is not chance (Holm, 5 %)"
    )
    notes.append(
        "Utility: test accuracy, with the interval of a share over test images. Leakage: brackets are 95 % intervals "
        f"over identities; arrows: which way the attack does better{columns if matrix.differences else ''}."
    )
    if any(row.adaptive for row in matrix.rows):
        notes.append(
            "Strongest adaptive: of the attacks that know of a defence (ATTACK:VARIANT), the one with the highest "
            "leakage, and its difference to the twin under the same attack. Bold: not chance by Holm over the "
            f"{matrix.adaptive_family} tests of such attacks, a family of its own."
        )
    if transfers := sorted({each.label for row in matrix.rows for each in row.adaptive if each.from_twin}):
        notes.append(
            f"{', '.join(transfers)} follows the twin's gradients, which know the private images: what it gets is no "
            "leak of the defence's, so it is not among the strongest. The CSV has it, beside the white box on the twin."
        )
    if any(row.relative_seconds is not None for row in matrix.rows):
        notes.append("Training ×: measured seconds of the training as a multiple of those of its twin's recipe.")
    notes += [
        f"{OTHER_RECIPE} {row.label} was not trained by its twin's recipe: {', '.join(_deviations(row))}."
        for row in matrix.rows
        if row.differs_from_twin
    ]
    if any(row.role == "control" for row in matrix.rows):
        notes.append("A control is expected to leak more; it is no defence.")
    if errors_table(matrix.judges).rows:
        notes.append(ERROR_NOTE)
    notes += [sentence(note) for note in matrix.notes]
    shown = [row for row in matrix.rows if row.twin or row.role != "undefended"]
    mismatched = [row.label for row in shown if any(each.mismatch for each in row.reported)]
    if mismatched:
        notes.append(
            f"Published values of {', '.join(mismatched)} are not shown: they hold for other data, models or settings "
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
    but = "twins" if {reference_name(matrix, group) for group in matrix.groups} == {"twin"} else "references"
    return [
        note_on_tests(matrix.family, f": {titles} of every row but the {but}, under every attack but the floor"),
        f"{DETECTABLE} No verdict {NOT_TOLD_APART}",
    ]


def blocks(matrix: Matrix) -> tuple[Block, Block]:
    """What people read: rows, then differences."""
    differences = [differences_table(matrix, group) for group in matrix.groups]
    left_out = [f"Left out: {note}." for note in matrix.left_out]
    errors = errors_table(matrix.judges)
    return (
        Block(
            tables=[*(matrix_table(matrix, group) for group in matrix.groups), *([errors] if errors.rows else [])],
            notes=notes_for_rows(matrix),
            left_out=left_out,
        ),
        Block(tables=[table for table in differences if table.rows], notes=notes_for_differences(matrix)),
    )


def render(matrix: Matrix, kind: str, *, width: int = 110) -> str:
    """The matrix as text, Markdown, CSV (a line per cell) or LaTeX."""
    return formats.render(long_table(matrix), blocks(matrix), kind, width=width)


def write_all(matrix: Matrix, folder: Path) -> list[Path]:
    """``defences`` as CSV, Markdown and LaTeX, and the figure ``frontier``."""
    from .figures.frontier import frontier_plot
    from .figures.style import save

    files = [
        write_text(folder / f"defences.{ending}", render(matrix, kind).lstrip("\n"))
        for ending, kind in (("csv", "csv"), ("md", "markdown"), ("tex", "latex"))
    ]
    return files + save(frontier_plot(matrix), folder, "frontier")


def _cells(matrix: Matrix, row: Defended) -> tuple[Cell, ...]:
    reported = next((each for each in row.reported if not each.attack and each.values), None)
    cells = [
        Cell(value=f"{row.label} {OTHER_RECIPE}" if row.differs_from_twin else row.label),
        estimate_cell(row.utility),
        Cell(value=_values(() if reported is None else reported.values)),
    ]
    for attack in matrix.attacks:
        for name in matrix.infos:
            results = row.attacks.get(attack)
            cells.append(estimate_cell(None if results is None else results.estimates.get(name)))
            if attack not in matrix.floors:
                each = matrix.difference(row, attack, name)
                known = None if each is None else each.estimate
                cells.append(estimate_cell(known, stands_out=each is not None and each.verdict is not None))
    cells += [Cell(value=row.strongest.get(name, "")) for name in matrix.infos]
    cells += _adaptive_cells(matrix, row)
    cells.append(Cell(value="" if row.masking is None else row.masking.verdict))
    some = any(each.relative_seconds is not None for each in matrix.rows if each.group == row.group)
    unknown = UNKNOWN if row.reference is not None and some else None  # where nothing is known, there is no column
    return (*cells, Cell(value=unknown if row.relative_seconds is None else row.relative_seconds))


def _long_cells(matrix: Matrix, row: Defended, attack: str, name: str) -> tuple[Cell, ...]:
    results, each = row.attacks[attack], matrix.difference(row, attack, name)
    estimate = results.estimates.get(name)
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
        "floor": Cell(value=str(results.floor).lower()),
        "adaptive": Cell(value="false"),
        "n_identities": Cell(value=results.identities),
        "n_seeds": Cell(value=len(results.seeds)),
        "seeds": Cell(value=" ".join(map(str, results.seeds))),
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
        "differs_from_twin": Cell(value="; ".join(_deviations(row))),
        "runs": Cell(value=" ".join(results.runs)),
    }
    return tuple(facts[column] for column in _LONG)


def _deviations(row: Defended) -> list[str]:
    """``epochs 50 (twin: 10)``."""
    return [
        f"{name} {setting_text(own)} (twin: {setting_text(theirs)})"
        for name, (theirs, own) in row.differs_from_twin.items()
    ]


def _adaptive_line(matrix: Matrix, row: Defended, each: AdaptiveAttack) -> tuple[Cell, ...]:
    """The line of an adaptive attack in the long table; it has no verdict, being one of several on its row."""
    alone = dataclasses.replace(row, attacks={each.label: each.result}, reported=())
    facts = dict(zip(_LONG, _long_cells(matrix, alone, each.label, each.metric), strict=True))
    reason = each.estimate.reason if each.difference is None else each.difference.reason
    return tuple(
        (
            facts
            | {
                "reference": Cell(value=row.reference or ""),
                "difference": estimate_cell(each.difference),
                "p_value": Cell(value=each.p_value),
                "p_holm": Cell(value=each.p_holm),
                "n": Cell(value=None if each.difference is None else each.difference.n),
                "detectable": Cell(value=each.detectable),
                "family": Cell(value=matrix.adaptive_family),
                "reason": Cell(value=reason or ""),
                "adaptive": Cell(value="true"),
            }
        ).values()
    )


def _values(values: Sequence[float]) -> str:
    """``80.4``, or ``78.9 to 80.4`` where several were published."""
    if not values:
        return ""
    ends = dict.fromkeys(value_text("share", value) for value in (values[0], values[-1]))
    return " to ".join(ends) + " %"
