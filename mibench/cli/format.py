"""Columns of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def text_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of the same length as lines whose columns are aligned, two blanks between them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
