"""LaTeX tables: they fit the page, and several of them in one document."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mibench.reports.compare import compare
from mibench.reports.latex import LAYOUTS, Layout, document, escape, label, width
from mibench.reports.latex_width import SIZES, text_width
from mibench.reports.table_model import Cell, Column, Table, interval_column

ENGINE = shutil.which("pdflatex") or shutil.which("lualatex") or shutil.which("xelatex")
PLAIN = "The quick (brown) fox jumps over 1,234.5 lazy dogs [67.8, 90.1] = acc@1, W Q M % & knn/distance: a?"


def table(columns: int, name: str = "t", text: str = "attack") -> Table:
    """A column of names and as many of estimates."""
    row = (Cell(value=text), *(Cell(value=0.4321, low=0.3214, high=0.5432) for _ in range(columns)))
    metrics = (interval_column(f"m{n}", f"metric {n:02}", "share") for n in range(columns))
    return Table(name=name, title="A table", columns=(Column(name="row", title=""), *metrics), rows=(row, row))


def layouts(text: str) -> list[tuple[bool, int]]:
    """Of every tabular in a document: whether it is wide, and its columns."""
    found = re.findall(r"\\begin\{(table\*?)\}.*?\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", text, re.DOTALL)
    return [(name == "table*", len(columns)) for name, columns in found]


def test_estimated_widths_are_those_of_the_font_or_a_little_more():
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.ft2font import FT2Font, LoadFlags

    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"))
    font.set_size(10, 72)
    for line in [PLAIN, *PLAIN.split(), "0123456789", "[67.8, 90.1]"]:
        true = sum(font.load_char(ord(letter), flags=LoadFlags.NO_HINTING).linearHoriAdvance for letter in line) / 65536
        estimated = text_width(line, 8.0) / 8.0 / 1.063 * 10
        assert 0.97 * true <= estimated <= 1.45 * true, line


def test_narrow_tables_take_one_column_and_wide_ones_two():
    assert layouts(document([table(2)], [])) == [(False, 3)]
    assert layouts(document([table(6)], [])) == [(True, 7)]


def test_a_table_wider_than_the_page_becomes_several():
    parts = layouts(document([table(30)], []))
    assert len(parts) > 1
    assert sum(columns - 1 for _, columns in parts) == 30
    least = Layout(wide=True, size="scriptsize", stacked=True)
    for _, columns in parts:
        assert width(table(columns - 1), least) <= least.limit


def test_columns_of_one_heading_stay_together():
    one = table(30)
    columns = tuple(
        Column(name=c.name, title=c.title, kind=c.kind, group=f"attack {n // 2}" if n < 30 else None)
        for n, c in enumerate(one.columns[1:])
    )
    text = document([Table(name="g", title="G", columns=(one.columns[0], *columns), rows=one.rows)], [])
    assert text.count("\\multicolumn{2}{c}") == 15
    assert text.count("\\cmidrule") == 15


def test_commands_are_set_as_they_are_typed():
    assert escape("`mibench --by defence`") == r"\textasciigrave{}mibench -{}-by defence\textasciigrave{}"
    assert escape("a---b") == "a-{}-{}-b"
    assert escape("1-2 – 3") == "1-2 -- 3"


def test_long_text_is_broken_into_lines():
    text = document([table(1, text="a defence with a very long name that nobody would ever want to read " * 2)], [])
    assert "\\parbox[t]{100pt}" in text
    assert layouts(text) == [(False, 2)]


def test_labels_are_unique_and_captions_short():
    other = table(3, text="another")
    text = document([table(3), other, table(30)], ["Short.", "Long, and below the table."])
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) >= 4
    assert label(table(3)) == label(table(3))
    assert "Long" not in "".join(re.findall(r"\\caption\{(.*?)\}", text))
    assert text.count("Long, and below the table.") == 3


def test_smaller_layouts_are_narrower():
    widths = [width(table(4), layout) for layout in LAYOUTS if not layout.wide]
    assert widths[0] > widths[1] > widths[3]
    assert set(SIZES) >= {layout.size for layout in LAYOUTS}


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX is installed")
def test_every_table_fits_the_narrowest_page(suite, defended, tmp_path):
    compare(suite).write(tmp_path)
    compare(defended, by="defence").write(tmp_path)
    names = ("comparison", "differences", "defences")
    body = "\n".join(f"\\input{{{name}}}\\clearpage" for name in names)
    (tmp_path / "paper.tex").write_text(
        f"\\documentclass[twocolumn]{{article}}\\usepackage{{booktabs}}\\begin{{document}}{body}\\end{{document}}"
    )
    command = [str(ENGINE), "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert "Overfull \\hbox" not in log
    assert "multiply defined" not in log
