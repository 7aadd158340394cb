"""Tables of a comparison as LaTeX with booktabs, ready to be included in a paper."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence

from mibench.results import ABSENT, printable

from .latex_width import ONE_COLUMN, SIZES, TWO_COLUMNS, text_width, wrapped_width
from .table_model import Cell, Column, Table, heading, shown

_LONG_HEAD = 12  # letters of a heading that stay on one line
_LONGEST_TEXT = 100.0  # points; a longer text is broken into lines
_GAP = 4.0  # points on either side of a column
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
    "×": r"$\times$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "–": "--",
    "`": r"\textasciigrave{}",
    "“": "``",
    "”": "''",
}
_NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")


def escape(text: str) -> str:
    """Text as LaTeX shows it literally: every special character escaped, arrows and signs as mathematics.

    Two hyphens, as options of a command have them, stay two and become no dash.
    """
    shown = printable(text.replace("\n", " "))
    pairs = zip(shown, f" {shown}", strict=False)  # a letter and the one before it
    return "".join("{}-" if letter == before == "-" else _SYMBOLS.get(letter, letter) for letter, before in pairs)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a table is set.

    Attributes:
        wide: over both columns of a page.
        size: of its text, a name in ``SIZES``.
        stacked: intervals stand below their values, not beside them.
    """

    wide: bool
    size: str
    stacked: bool

    @property
    def limit(self) -> float:
        """Points that there are."""
        return TWO_COLUMNS if self.wide else ONE_COLUMN


LAYOUTS = tuple(  # the first that fits is taken
    Layout(wide, size, stacked)
    for wide in (False, True)
    for stacked in (False, True)
    for size in ("footnotesize", "scriptsize")
)


def document(tables: Sequence[Table], notes: Sequence[str], comments: Sequence[str] = ()) -> str:
    """``table`` environments below each other, to be included with ``\\input``.

    Each fits one column of a page, or both; one that is wider than both is cut into several, as for a terminal.

    Args:
        tables: what to set.
        notes: go below each table that has none of its own; the first one, what the numbers hold for, into its caption.
        comments: go to the top of the file, not into print.
    """
    head = "% Needs \\usepackage{booktabs}; letters such as é want UTF-8 input, the default of today's LaTeX.\n"
    head += "".join(f"% {printable(' '.join(comment.split()))}\n" for comment in comments)
    parts = []
    for table in tables:
        for number, part in enumerate(_parts(table)):
            below = list(notes if table.notes is None else table.notes)
            about = [table.about] if table.about and number == 0 else []
            parts.append(environment(part, [*below[:1], *about, *below[1:]] if number == 0 else below[:1]))
    return head + "\n".join(parts)


def environment(table: Table, notes: Sequence[str]) -> str:
    """One table: text on the left, numbers on the right, intervals in small brackets."""
    layout = _layout(table) or LAYOUTS[-1]
    name = "table*" if layout.wide else "table"
    columns = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    body = [
        "{}" + " & ".join(_cell(*pair, layout) for pair in zip(table.columns, row, strict=True)) + r" \\"
        for row in table.rows
    ]  # {} in front: a label that begins with a bracket would be read as an argument of the \\ before it
    below = escape(" ".join(notes[1:]))
    lines = [
        f"\\begin{{{name}}}[t]",
        "\\centering",
        f"\\caption{{{escape(' '.join([f'{table.title}.', *notes[:1]]))}}}",
        f"\\label{{{label(table)}}}",
        f"\\{layout.size}",
        f"\\setlength{{\\tabcolsep}}{{{_GAP:g}pt}}",
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        *_groups(table),
        " & ".join(_head(column) for column in table.columns) + r" \\",
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
        *([f"\\par\\smallskip\\parbox{{\\linewidth}}{{\\tiny\\raggedright {below}}}"] if below else []),
        f"\\end{{{name}}}",
        "",
    ]
    return "\n".join(lines)


def label(table: Table) -> str:
    """``tab:results-0-3fa2c1``: told apart by what stands in the table, so that a paper can include several."""
    content = repr((table.title, [column.title for column in table.columns], table.rows))
    return f"tab:{table.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def width(table: Table, layout: Layout) -> float:
    """Points that a table takes, estimated."""
    size = SIZES[layout.size]
    total = 2 * _GAP * (len(table.columns) - 1)
    widths = []
    for index, column in enumerate(table.columns):
        lines = [text_width(line, size) for line in _broken(heading(column))]
        widths.append(max([*lines, *(_cell_width(column, row[index], layout) for row in table.rows)]))
    for group, start, end in _spans(table):
        widths[end] += max(0.0, text_width(group, size) - sum(widths[start : end + 1]) - 2 * _GAP * (end - start))
    return total + sum(widths)


def _layout(table: Table) -> Layout | None:
    """The first layout that fits; None where none does."""
    return next((layout for layout in LAYOUTS if width(table, layout) <= layout.limit), None)


def _parts(table: Table) -> Iterator[Table]:
    """The table, or as many as it takes for each to fit; columns that say what a row is lead each of them."""
    if _layout(table) is not None or len(table.columns) <= table.lead + 1:
        yield table
        return
    last = len(table.columns)
    start, number = table.lead, 0
    while start < last:
        end = start + 1
        while end < last and _layout(_cut(table, start, end + 1)) is not None:
            end += 1
        spans = [(first, final) for _, first, final in _spans(table) if first > start and first < end <= final]
        if end < last and spans:
            end = spans[0][0]  # a group stays together
        part = _cut(table, start, end)
        title = table.title if number == 0 else f"{table.title} (continued)"
        yield dataclasses.replace(part, title=title, name=table.name if number == 0 else f"{table.name}-{number + 1}")
        start, number = end, number + 1


def _cut(table: Table, start: int, end: int) -> Table:
    indices = [*range(table.lead), *range(start, end)]
    rows = tuple(tuple(row[index] for index in indices) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[index] for index in indices), rows=rows)


def _spans(table: Table) -> list[tuple[str, int, int]]:
    """Groups of neighbouring columns: heading, first and last index."""
    spans: list[tuple[str, int, int]] = []
    for index, column in enumerate(table.columns):
        if column.group is None:
            continue
        if spans and spans[-1][0] == column.group and spans[-1][2] == index - 1:
            spans[-1] = (column.group, spans[-1][1], index)
        else:
            spans.append((column.group, index, index))
    return spans


def _groups(table: Table) -> list[str]:
    """The line of headings that columns share, and the rules below it."""
    spans = _spans(table)
    if not spans:
        return []
    cells, index = [], 0
    for group, start, end in spans:
        cells += [""] * (start - index)
        cells.append(f"\\multicolumn{{{end - start + 1}}}{{c}}{{{escape(group)}}}")
        index = end + 1
    cells += [""] * (len(table.columns) - index)
    rules = "".join(f"\\cmidrule(lr){{{start + 1}-{end + 1}}}" for _, start, end in spans)
    return [" & ".join(cells) + r" \\", rules]


def _broken(words: str) -> list[str]:
    """A heading; a long one is broken into two lines at the space nearest to its middle."""
    spaces = [index for index, letter in enumerate(words) if letter == " "]
    if len(words) <= _LONG_HEAD or not spaces:
        return [words]
    middle = min(spaces, key=lambda index: (abs(2 * index - len(words)), index))
    return [words[:middle], words[middle + 1 :]]


def _head(column: Column) -> str:
    lines = [escape(line) for line in _broken(heading(column))]
    side = "l" if column.kind == "text" else "r"
    return lines[0] if len(lines) == 1 else f"\\shortstack[{side}]{{{lines[0]}\\\\{lines[1]}}}"


def _cell_width(column: Column, cell: Cell, layout: Layout) -> float:
    text, aside = shown(column, cell)
    size = SIZES[layout.size]
    main = wrapped_width(text, size, _LONGEST_TEXT, bold=cell.stands_out)
    beside = text_width(aside, SIZES["tiny"])
    return max(main, beside) if layout.stacked else main + (beside + text_width(" ", size) if aside else 0.0)


def _cell(column: Column, cell: Cell, layout: Layout) -> str:
    text, aside = shown(column, cell)
    if text == ABSENT:
        return "--"
    main = _numeric(text) if not isinstance(cell.value, str) else escape(text)
    main = f"\\textbf{{{main}}}" if cell.stands_out else main
    taken = wrapped_width(text, SIZES[layout.size], _LONGEST_TEXT)
    if text_width(text, SIZES[layout.size]) > taken:
        main = f"\\parbox[t]{{{taken:.0f}pt}}{{\\raggedright {main}\\strut}}"
    if not aside:
        return main
    small = f"{{\\tiny {_numeric(aside)}}}"
    return f"\\shortstack[r]{{{main}\\\\ {small}}}" if layout.stacked else f"{main} {small}"


def _numeric(text: str) -> str:
    """A number with a minus sign in place of the hyphen."""
    return _NEGATIVE.sub("$-$", escape(text))
