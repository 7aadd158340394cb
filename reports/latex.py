"""Tables of a comparison as LaTeX with booktabs, ready to be included in a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mibench.results import ABSENT, printable

from .table_model import Cell, Column, Table, heading, shown

_WIDE = 5  # columns of numbers from which a table spans both columns of a page
_LONG_HEAD = 12  # letters of a heading that stay on one line
_SYMBOLS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": r"$-$",
    "÷": r"$\div$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "–": "--",
    "“": "``",
    "”": "''",
}
_NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")


def escape(text: str) -> str:
    """Text as LaTeX shows it literally: every special character escaped, arrows and signs as mathematics."""
    return "".join(_SYMBOLS.get(letter, letter) for letter in printable(text.replace("\n", " ")))


def document(tables: Sequence[Table], notes: Sequence[str], comments: Sequence[str] = ()) -> str:
    """``table`` environments below each other, to be included with ``\\input``.

    Args:
        tables: what to set.
        notes: go into the caption of each table that has none of its own.
        comments: go to the top of the file, not into print.
    """
    head = "% Needs \\usepackage{booktabs}; letters such as é want UTF-8 input, the default of today's LaTeX.\n"
    head += "".join(f"% {printable(' '.join(comment.split()))}\n" for comment in comments)
    return head + "\n".join(environment(table, notes if table.notes is None else table.notes) for table in tables)


def environment(table: Table, notes: Sequence[str]) -> str:
    """One table: text on the left, numbers on the right, intervals in small brackets."""
    wide = len(table.columns) - table.lead >= _WIDE
    name = "table*" if wide else "table"
    numeric = [index for index, column in enumerate(table.columns) if column.kind != "text"]
    layout = "".join("r" if index in numeric else "l" for index in range(len(table.columns)))
    caption = " ".join([f"{table.title}.", *notes])
    lines = [
        f"\\begin{{{name}}}[t]",
        "\\centering",
        f"\\caption{{{escape(caption)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\scriptsize" if wide else "\\footnotesize",
        "\\setlength{\\tabcolsep}{4pt}",
        f"\\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
        "\\toprule",
        " & ".join(_head(column) for column in table.columns) + r" \\",
        "\\midrule",
        *(
            "{}" + " & ".join(_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)) + r" \\"
            for row in table.rows
        ),  # {} in front: a label that begins with a bracket would be read as an argument of the \\ before it
        "\\bottomrule",
        "\\end{tabular}",
        f"\\end{{{name}}}",
        "",
    ]
    return "\n".join(lines)


def _head(column: Column) -> str:
    """A heading; a long one is broken into two lines at the space nearest to its middle."""
    words = heading(column)
    spaces = [index for index, letter in enumerate(words) if letter == " "]
    if len(words) <= _LONG_HEAD or not spaces:
        return escape(words)
    middle = min(spaces, key=lambda index: (abs(2 * index - len(words)), index))
    side = "l" if column.kind == "text" else "r"
    return f"\\shortstack[{side}]{{{escape(words[:middle])}\\\\{escape(words[middle + 1 :])}}}"


def _cell(column: Column, cell: Cell) -> str:
    text, aside = shown(column, cell)
    if text == ABSENT:
        return "--"
    main = _numeric(text) if not isinstance(cell.value, str) else escape(text)
    main = f"\\textbf{{{main}}}" if cell.stands_out else main
    return main + (f" {{\\tiny {_numeric(aside)}}}" if aside else "")


def _numeric(text: str) -> str:
    """A number with a minus sign in place of the hyphen."""
    return _NEGATIVE.sub("$-$", escape(text))
