"""Tables as data, so that CSV, Markdown, LaTeX and a terminal show the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mibench.results import printable

from .formatting import ABSENT, number
from .tables import as_csv, as_markdown

Kind = Literal["text", "share", "points", "number", "count", "megabytes", "p"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: name in CSV, title for people (None: CSV only), how its numbers are shown, which way is better."""

    name: str
    title: str | None
    kind: Kind = "text"
    better: bool | None = None
    interval: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value with its interval; ``kind`` overrides the column's, ``stands_out`` is set in bold, and people read
    ``title`` in place of the value."""

    value: str | float | None
    low: float | None = None
    high: float | None = None
    kind: Kind | None = None
    stands_out: bool = False
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table; every row has a cell for each column. ``name`` is that of its file or label; the first ``lead``
    columns say what a row is, and are repeated where a wide table is cut. ``notes``: sentences of its own; None stands
    for those of the whole comparison."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    lead: int = 1
    notes: tuple[str, ...] | None = None

    def part(self, name: str, title: str, columns: Sequence[str], keep: Callable[[dict[str, Cell]], bool]) -> Table:
        """Some rows, and some columns in the order asked for; columns without a single value are dropped."""
        names = [column.name for column in self.columns]
        places = [names.index(name) for name in columns]
        rows = [row for row in self.rows if keep(dict(zip(names, row, strict=True)))]
        places = [place for place in places if any(row[place].value not in (None, "") for row in rows)]
        return Table(
            name=name,
            title=title,
            columns=tuple(self.columns[place] for place in places),
            rows=tuple(tuple(row[place] for place in places) for row in rows),
            lead=self.lead,
        )


def shown(column: Column, cell: Cell) -> tuple[str, str]:
    """A cell for people: the value, and its interval in brackets or nothing."""
    kind = cell.kind or column.kind
    if cell.value is None:
        return ABSENT, ""
    if isinstance(cell.value, str):
        return printable(cell.title or cell.value), ""
    text = number_text(kind, cell.value)
    if cell.low is None or cell.high is None:
        return text, ""
    low, high = (number_text(kind, bound).removesuffix(" points") for bound in (cell.low, cell.high))
    return text, f"[{low}, {high}]"


def heading(column: Column) -> str:
    """A column's title with unit and arrow."""
    unit = " (%)" if column.kind == "share" else ""
    return printable(column.title or "") + unit + ("" if column.better is None else " ↑" if column.better else " ↓")


def markdown_text(tables: Sequence[Table], notes: Sequence[str], width: int | None = None) -> str:
    """Tables below each other and the notes after the last; a table wider than ``width`` is cut into several."""
    parts = []
    for table in tables:
        head = [heading(column) for column in table.columns]
        body = [[_markdown_cell(c, cell) for c, cell in zip(table.columns, row, strict=True)] for row in table.rows]
        for chunk, places in enumerate(_chunks([head, *body], table.lead, width)):
            title = printable(table.title if chunk == 0 else f"{table.title} (continued)")
            parts.append(
                as_markdown(title, [], [[row[place] for place in places] for row in [head, *body]]).rstrip("\n")
            )
    return "\n\n".join(parts) + "\n\n" + "\n".join(f"{printable(note)}\n" for note in notes)


def csv_text(table: Table) -> str:
    """All columns in full precision; an interval is two more columns."""
    head: list[str] = []
    for column in table.columns:
        head += [column.name, *([f"{column.name}_low", f"{column.name}_high"] if column.interval else [])]
    lines = [head]
    for row in table.rows:
        line: list[str] = []
        for column, cell in zip(table.columns, row, strict=True):
            line += [_exact(cell.value), *([_exact(cell.low), _exact(cell.high)] if column.interval else [])]
        lines.append(line)
    return as_csv(lines)


def number_text(kind: Kind, value: float) -> str:
    if kind == "share":
        return number(value, percent=True)
    if kind == "points":
        return f"{number(value, percent=True)} points"
    if kind == "count":
        return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:,.1f}"
    if kind == "megabytes":
        return f"{value / 1e6:,.0f}"
    if kind == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return number(value)


def _markdown_cell(column: Column, cell: Cell) -> str:
    text, aside = shown(column, cell)
    text = f"**{text}**" if cell.stands_out else text
    return f"{text} {aside}".rstrip()


def _chunks(table: Sequence[Sequence[str]], lead: int, width: int | None) -> list[list[int]]:
    """Places of columns that fit into ``width`` letters beside the first ``lead`` ones, which lead every chunk."""
    count = len(table[0])
    if width is None:
        return [list(range(count))]
    sizes = [max(3, *(len(row[place]) for row in table)) + 3 for place in range(count)]
    first = list(range(min(lead, count)))
    chunks = [list(first)]
    for place in range(len(first), count):
        if len(chunks[-1]) > len(first) and 1 + sum(sizes[p] for p in [*chunks[-1], place]) > width:
            chunks.append(list(first))
        chunks[-1].append(place)
    return chunks


def _exact(value: str | float | None) -> str:
    return "" if value is None else printable(value) if isinstance(value, str) else repr(value)
