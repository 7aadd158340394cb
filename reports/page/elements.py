"""Tables and lists of facts as a template reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mibench.reports.table_model import Cell, Column, Table, heading, shown
from mibench.results import printable

LONGEST_WORD = 12  # letters of a heading that stay together on paper: names of cards may break, words may not


@dataclass(frozen=True)
class Fact:
    """A line of a list of facts; ``code``: in letters of one width."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class PageColumn:
    """A column: ``choices``: a person may choose rows by its values."""

    title: str
    numeric: bool
    choices: bool = False

    @property
    def kind(self) -> str:
        """Classes of its heading: ``long`` has a word that paper has no room for."""
        is_long = any(len(word) > LONGEST_WORD for word in self.title.split())
        return " ".join(name for name, holds in (("number", self.numeric), ("long", is_long)) if holds)


@dataclass(frozen=True)
class PageCell:
    """A cell: its text, its interval, the value that it is sorted by, and where it leads on its own server."""

    text: str
    bounds: str = ""
    sort: str = ""
    bold: bool = False
    header: bool = False
    link: str | None = None


@dataclass(frozen=True)
class PageTable:
    """A table with headings of columns (and of groups of them) and of rows.

    Attributes:
        groups: title and width of each group; empty without groups.
        sortable: whether a person may sort and filter it.
    """

    name: str
    title: str
    columns: Sequence[PageColumn]
    rows: Sequence[Sequence[PageCell]]
    groups: Sequence[tuple[str, int]] = ()
    notes: Sequence[str] = ()
    sortable: bool = False
    described: str = field(default="")


def page_table(
    table: Table,
    name: str,
    *,
    sortable: bool = False,
    choices: Sequence[str] = (),
    title: str | None = None,
    measured: bool = False,
) -> PageTable:
    """A table of the reports on a page.

    Args:
        table: as it is printed elsewhere.
        name: of the table on its page.
        sortable: whether a person may sort and filter it.
        choices: names of columns by whose values rows are chosen.
        title: another one than the table has.
        measured: leave out columns that have no value in any row.
    """
    indices = [
        index
        for index, column in enumerate(table.columns)
        if column.title is not None and not (measured and all(row[index].value is None for row in table.rows))
    ]
    columns = [table.columns[index] for index in indices]
    rows = [
        tuple(_cell(table.columns[index], row[index], header=place < table.lead) for place, index in enumerate(indices))
        for row in table.rows
    ]
    return PageTable(
        name=_name(name),
        title=table.title if title is None else title,
        columns=[
            PageColumn(heading(column) or "row", _numeric(rows, place), column.name in choices)
            for place, column in enumerate(columns)
        ],
        rows=rows,
        groups=_groups(columns),
        notes=[note for note in (table.about, *(table.notes or ())) if note],
        sortable=sortable,
    )


def anchor(text: str) -> str:
    """A text as part of an identifier."""
    return _name(text)


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def _cell(column: Column, cell: Cell, *, header: bool) -> PageCell:
    text, bounds = shown(column, cell)
    sort = "" if cell.value is None else printable(cell.value) if isinstance(cell.value, str) else repr(cell.value)
    return PageCell(text=text, bounds=bounds, sort=sort, bold=cell.stands_out, header=header)


def _numeric(rows: Sequence[Sequence[PageCell]], place: int) -> bool:
    """Whether every value of a column is a number."""
    values = [row[place].sort for row in rows if row[place].sort]
    return bool(values) and all(re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", value) for value in values)


def _groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    if all(column.group is None for column in columns):
        return []
    groups: list[tuple[str, int]] = []
    for column in columns:
        title = column.group or ""
        if groups and groups[-1][0] == title:
            groups[-1] = (title, groups[-1][1] + 1)
        else:
            groups.append((title, 1))
    return groups
