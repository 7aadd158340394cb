"""Formats of a comparison, and the sentences below its tables that hold for attacks and for defences side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mibench.api import MibenchError

from .comparison import Row
from .significance import LEVEL
from .table_model import Table, csv_text, markdown_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMATS = ("text", "markdown", "csv", "latex")
DETECTABLE = "Detectable: the true difference that one such test at 5 %, not adjusted, would find in 80 % of cases."
NOT_TOLD_APART = "means not told apart, which is not the same as equal."


@dataclass(frozen=True, kw_only=True)
class Block:
    """Tables that are printed together.

    Attributes:
        notes: sentences below the tables; in LaTeX the first one, what the numbers hold for, is part of the captions.
        left_out: sentences on runs that were not used: below the notes, in LaTeX comments of the file.
    """

    tables: Sequence[Table]
    notes: Sequence[str]
    left_out: Sequence[str] = ()

    def markdown(self, width: int | None = None) -> str:
        """Markdown; a table wider than ``width`` letters is cut into several."""
        return markdown_text(self.tables, [*self.notes, *self.left_out], width)

    def latex(self) -> str:
        """``table`` environments."""
        from .latex import document

        return document(self.tables, self.notes, self.left_out)


def render(exact: Table, blocks: Sequence[Block], kind: str, *, width: int) -> str:
    """A comparison in one of :data:`FORMATS`.

    Args:
        exact: everything in full precision, for CSV.
        blocks: what people read; those without a table are left out.
        kind: the format.
        width: letters in a line, for ``text``.

    Raises:
        MibenchError: an unknown format.
    """
    if kind not in FORMATS:
        raise MibenchError(f"unknown format {kind!r} (known: {', '.join(FORMATS)})")
    if kind == "csv":
        return csv_text(exact)
    limit = width if kind == "text" else None
    return "\n".join(block.latex() if kind == "latex" else block.markdown(limit) for block in blocks if block.tables)


def as_plain(comparison: DataclassInstance) -> dict[str, object]:
    """A comparison as JSON types; numbers that are not finite are null."""
    return {name: _plain(value) for name, value in dataclasses.asdict(comparison).items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def counts(rows: Sequence[Row]) -> tuple[int, int] | None:
    """Identities and seeds of every row; None when rows differ."""
    sizes = {(row.identities, len(row.seeds)) for row in rows}
    return sizes.pop() if len(sizes) == 1 else None


def validity(rows: Sequence[Row], mixed: Sequence[str]) -> str:
    """What the numbers hold for, or the warning that they hold for different things.

    Args:
        rows: of the comparison, at least one.
        mixed: names of circumstances that differ between the rows.
    """
    if mixed:
        more = " and more" if len(mixed) > 3 else ""
        return (
            f"WARNING: these rows do not share their {', '.join(mixed[:3])}{more}: their numbers do not compare, "
            "and no test was made across."
        )
    size = ""
    if (known := counts(rows)) is not None:
        identities, seeds = known
        size = f", {identities} identities, {seeds} seed{'s' if seeds > 1 else ''}"
    return f"Data set {rows[0].dataset}, protocol {rows[0].protocol}{size}."


def out_of_reach(identities: int, family: int, cure: str) -> list[str]:
    """A clause where no test can be significant: p values of sign flips have a least value. Nothing where one can.

    Args:
        identities: of the row that has the fewest.
        family: how many tests Holm's adjustment covers.
        cure: what to do about it.
    """
    least = 2.0 ** (1 - identities) if identities < 60 else 0.0
    if family * least <= LEVEL:
        return []
    return [
        f"with {identities} identities no p value is below {least:.2g}, so among {family} tests none can reach "
        f"{LEVEL:g}: {cure}"
    ]


def note_on_tests(family: int, of_what: str = "") -> str:
    """How the p values of ``family`` tests came about."""
    return (
        "Paired over identities, 95 % interval. p: two-sided sign-flip test, adjusted by Holm for all "
        f"{family} tests shown{of_what}."
    )
