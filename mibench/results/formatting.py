"""How numbers and tables are written for people, once for terminals, sweeps, audits and reports."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from mibench.api import Estimate, MetricInfo
from mibench.errors import printable

ABSENT = "–"
_FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for the beginning of a formula

NOTHING = 1e-12  # below, a number is 0 to a reader: the lower end of an interval of a share may be 1e-39


def number_text(value: float | None, *, percent: bool = False) -> str:
    """A number with about three significant digits, or a dash; in percent with one decimal and without the sign."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if percent:
        return f"{100 * value:.1f}"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    if size >= 0.001 or size < NOTHING:
        return f"{value:.3f}"
    return f"{value:.1e}"


def count_text(value: float | None) -> str:
    """A count with thousands separators, or a dash; with one decimal where it is a mean and not whole."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def bounds_text(low: float | None, high: float | None, *, percent: bool = False) -> str:
    """``[low, high]``, or nothing without an interval."""
    if low is None or high is None:
        return ""
    return f"[{number_text(low, percent=percent)}, {number_text(high, percent=percent)}]"


def interval_text(value: float | None, low: float | None, high: float | None, *, percent: bool = False) -> str:
    """``value [low, high]``, or a dash when there is no value."""
    if value is None:
        return ABSENT
    text = number_text(value, percent=percent) + (" %" if percent else "")
    return f"{text} {bounds_text(low, high, percent=percent)}".rstrip()


def estimate_text(estimate: Estimate | None, info: MetricInfo | None) -> str:
    """An estimate as its metric says, or a dash when there is none."""
    if estimate is None:
        return ABSENT
    percent = info is not None and info.percent
    return interval_text(estimate.value, estimate.low, estimate.high, percent=percent)


def arrow(higher_is_better: bool | None) -> str:
    """Which way is better for the adversary, that is, worse for privacy: ↑, ↓ or nothing."""
    return "" if higher_is_better is None else " ↑" if higher_is_better else " ↓"


def absent_notes(estimates: Iterable[tuple[str, Estimate]]) -> list[str]:
    """One sentence for each distinct reason why numbers are missing, of pairs of title and estimate."""
    titles_by_reason: dict[str, dict[str, None]] = {}
    for title, estimate in estimates:
        if estimate.value is None:
            titles_by_reason.setdefault(estimate.reason or "no reason was given", {})[title] = None
    return [f"{ABSENT} {', '.join(titles)}: {reason}." for reason, titles in titles_by_reason.items()]


def markdown_lines(rows: Sequence[Sequence[str]], *, ragged: bool = False) -> list[str]:
    """A Markdown table, the first row its head, with columns aligned so that it reads as plain text too.

    Args:
        rows: of the same length.
        ragged: do not pad the last column, because some of its entries are long.
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    if ragged:
        widths[-1] = max(3, len(cells[0][-1]))

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [line(cells[0]), rule, *(line(row) for row in cells[1:])]


def markdown_inert(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, nobody is mentioned, no mark that reorders or hides."""
    return re.sub(r"[&<>\\`*_{}\[\]#!|@~]", lambda match: f"&#{ord(match[0])};", printable(text))


def csv_cell(value: object) -> object:
    """A cell of a CSV file: empty for None; text on one line, and none that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = printable(value)
    return f"'{text}" if value.startswith(_FORMULA) or text.startswith(_FORMULA) else text
