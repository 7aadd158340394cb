"""Tables as data, so that CSV, Markdown, LaTeX and a terminal show the same numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.api import Estimate, MetricInfo
from mibench.results import (
    ABSENT,
    arrow,
    atomic_write,
    bounds_text,
    count_text,
    csv_cell,
    markdown_lines,
    number_text,
    printable,
)

Kind = Literal["text", "share", "percent", "points", "gap", "number", "count", "megabytes", "p"]
_IN_PERCENT = ("share", "percent", "points", "gap")
_SIGNS = {"percent": " %", "points": " points"}
_HEADING_SIGNS = {"share": " (%)", "gap": " (points)"}  # of columns whose cells are all of one unit


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        name: in CSV; None for a column that is not in CSV.
        title: heading for people; None for a column that is in CSV only.
        kind: how its numbers are shown.
        better: whether higher is better for the attack.
        bounds: names in CSV of the two columns that hold the interval; None for numbers without one.
        group: heading that neighbouring columns share; None for a column that stands alone.
    """

    name: str | None
    title: str | None
    kind: Kind = "text"
    better: bool | None = None
    bounds: tuple[str, str] | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value with its interval; ``kind`` overrides the column's, ``stands_out`` is set in bold, and people read
    ``title`` in place of a text or of a value that is absent."""

    value: str | float | None
    low: float | None = None
    high: float | None = None
    kind: Kind | None = None
    stands_out: bool = False
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table; every row has a cell for each column. ``name`` is that of its file or label; the first ``lead``
    columns say what a row is, and are repeated where a wide table is cut. ``about``: a sentence that is read before the
    table. ``notes``: sentences of its own; None stands for those of everything that is printed together."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    lead: int = 1
    about: str = ""
    notes: tuple[str, ...] | None = None

    def part(self, name: str, title: str, columns: Sequence[str], keep: Callable[[dict[str, Cell]], bool]) -> Table:
        """Some rows, and some columns in the order asked for; columns without a single value are dropped."""
        names = [column.name or "" for column in self.columns]
        indices = [names.index(column) for column in columns]
        rows = [row for row in self.rows if keep(dict(zip(names, row, strict=True)))]
        indices = [index for index in indices if any(row[index].value not in (None, "") for row in rows)]
        return Table(
            name=name,
            title=title,
            columns=tuple(self.columns[index] for index in indices),
            rows=tuple(tuple(row[index] for index in indices) for row in rows),
            lead=self.lead,
        )


def interval_column(name: str, title: str | None, kind: Kind, better: bool | None = None) -> Column:
    """A column of estimates, with the bounds of their intervals beside it in CSV."""
    return Column(name=name, title=title, kind=kind, better=better, bounds=(f"{name}_low", f"{name}_high"))


def text_cells(*texts: str) -> tuple[Cell, ...]:
    """Cells of text."""
    return tuple(Cell(value=text) for text in texts)


def estimate_cell(
    estimate: Estimate | None, info: MetricInfo | None = None, *, kind: Kind | None = None, stands_out: bool = False
) -> Cell:
    """An estimate; with ``info``, in percent where its metric says so."""
    if info is not None:
        kind = "percent" if info.percent else "number"
    if estimate is None or estimate.value is None:
        return Cell(value=None, kind=kind)
    low, high = (None if bound is None else float(bound) for bound in (estimate.low, estimate.high))
    return Cell(value=float(estimate.value), low=low, high=high, kind=kind, stands_out=stands_out)


def shown(column: Column, cell: Cell) -> tuple[str, str]:
    """A cell for people: the value, and its interval in brackets or nothing."""
    kind = cell.kind or column.kind
    if cell.value is None:
        return cell.title or ABSENT, ""
    if isinstance(cell.value, str):
        return printable(cell.title or cell.value), ""
    return value_text(kind, cell.value), bounds_text(cell.low, cell.high, percent=kind in _IN_PERCENT)


def heading(column: Column) -> str:
    """A column's title with unit and arrow."""
    return printable(column.title or "") + _HEADING_SIGNS.get(column.kind, "") + arrow(column.better)


def _grouped(column: Column) -> str:
    """A column's heading behind that of its group, where headings have one line."""
    return heading(column) if column.group is None else f"{printable(column.group)}: {heading(column)}"


def value_text(kind: Kind, value: float) -> str:
    """A number as people read it."""
    if kind == "count":
        return count_text(value)
    if kind == "megabytes":
        return f"{value / 1e6:,.0f}"
    if kind == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return number_text(value, percent=kind in _IN_PERCENT) + _SIGNS.get(kind, "")


def markdown_text(tables: Sequence[Table], notes: Sequence[str], width: int | None = None) -> str:
    """Tables below each other and the notes after the last; a table wider than ``width`` is cut into several."""
    parts = []
    for table in tables:
        indices = [index for index, column in enumerate(table.columns) if column.title is not None]
        rows = [[_grouped(table.columns[index]) for index in indices]]
        rows += [[_markdown_cell(table.columns[index], row[index]) for index in indices] for row in table.rows]
        groups = [table.columns[index].group for index in indices]
        for number, chunk in enumerate(_chunks(rows, table.lead, width, groups)):
            title = printable(table.title if number == 0 else f"{table.title} (continued)")
            lines = markdown_lines([[row[index] for index in chunk] for row in rows])
            about = [printable(table.about), ""] if table.about and number == 0 else []
            parts.append("\n".join([f"## {title}", "", *about, *lines]))
    text = "\n\n".join(parts) + "\n\n" + "\n".join(f"{printable(note)}\n" for note in notes)
    return text if width is not None else _without_markup(text)


def csv_text(table: Table) -> str:
    """All columns in full precision; an interval is two more columns."""
    indices = [index for index, column in enumerate(table.columns) if column.name is not None]
    head: list[str] = []
    for index in indices:
        column = table.columns[index]
        head += [column.name or "", *(column.bounds or ())]
    lines = [head]
    for row in table.rows:
        line: list[str] = []
        for index in indices:
            cell = row[index]
            line.append(_exact(cell.value))
            line += [_exact(cell.low), _exact(cell.high)] if table.columns[index].bounds is not None else []
        lines.append(line)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_text(file: Path, text: str) -> Path:
    """Write a text file, making its folder.

    Raises:
        MibenchError: it cannot be written.
    """
    atomic_write(file, text.encode(), sweep=True)
    return file


def _without_markup(text: str) -> str:
    """Markdown in which no name becomes an element of HTML, a link or an image: what would begin one is an entity.

    Other signs stay, so that files read as plain text too; lines and cells are nobody's to make already.
    """
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "&#93;(").replace("][", "&#93;[")


def _markdown_cell(column: Column, cell: Cell) -> str:
    text, bounds = shown(column, cell)
    text = f"**{text}**" if cell.stands_out else text
    return f"{text} {bounds}".rstrip()


def _chunks(
    rows: Sequence[Sequence[str]], lead: int, width: int | None, groups: Sequence[str | None]
) -> list[list[int]]:
    """Indices of columns that fit into ``width`` letters beside the first ``lead`` ones, which lead every chunk.

    Neighbours of one of the ``groups`` stay together where they fit at all.
    """
    count = len(rows[0])
    if width is None:
        return [list(range(count))]
    sizes = [max(3, *(len(row[index]) for row in rows)) + 3 for index in range(count)]
    first = list(range(min(lead, count)))

    def fits(indices: Sequence[int]) -> bool:
        return 1 + sum(sizes[each] for each in indices) <= width

    together: list[list[int]] = []
    for index in range(len(first), count):
        alike = together and groups[index] is not None and groups[index] == groups[index - 1]
        if alike and fits([*first, *together[-1], index]):
            together[-1].append(index)
        else:
            together.append([index])
    chunks = [list(first)]
    for block in together:
        if len(chunks[-1]) > len(first) and not fits([*chunks[-1], *block]):
            chunks.append(list(first))
        chunks[-1] += block
    return chunks


def _exact(value: str | float | None) -> str:
    return str(csv_cell(value)) if value is None or isinstance(value, str) else repr(value)
