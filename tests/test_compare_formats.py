"""Comparison of runs: every format says the same, on the command line too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from comparable_runs import call, make, read

from mibench.reports.compare import compare
from mibench.reports.latex import escape


def test_csv_has_full_precision(compared):
    rows = read(compared.render("csv"))
    assert len(rows) == len(compared.rows)
    for line, row in zip(rows, compared.rows, strict=True):
        for name in compared.metrics:
            each = row.estimates[name]
            assert float(line[name]) == each.value
            assert line[f"{name}_low"] == ("" if each.low is None else repr(each.low))
        assert float(line["acc1_seed_low"]) == min(row.by_seed["acc1"])
        assert float(line["acc1_seed_sd"]) == pytest.approx(np.std(row.by_seed["acc1"], ddof=1))
        assert float(line["attack_seconds"]) == row.cost["attack_seconds"]
        assert line["floor"] == str(row.floor).lower()


def test_files_hold_the_same_numbers_and_repeat(compared, suite, tmp_path):
    files = compared.write(tmp_path / "a")
    assert sorted(file.name for file in files) == sorted(
        [f"{name}.{ending}" for name in ("comparison", "differences") for ending in ("csv", "md", "tex")]
        + [f"{name}.{ending}" for name in ("comparison", "verdict") for ending in ("png", "svg")]
    )
    again = compare(suite).write(tmp_path / "b")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    lines = read((tmp_path / "a" / "differences.csv").read_text(encoding="utf-8"))
    assert len(lines) == len(compared.differences)
    for line, each in zip(lines, compared.differences, strict=True):
        assert (line["first"], line["second"], line["metric"]) == (each.first, each.second, each.metric)
        assert float(line["difference"]) == each.estimate.value
        assert float(line["p_holm"]) == each.p_holm
        assert float(line["detectable"]) == each.detectable
        assert int(line["family"]) == compared.family
    markdown = (tmp_path / "a" / "comparison.md").read_text(encoding="utf-8")
    latex = (tmp_path / "a" / "comparison.tex").read_text(encoding="utf-8")
    for row in compared.rows:
        each = row.estimates["acc1"]
        interval = f"[{100 * each.low:.1f}, {100 * each.high:.1f}]"
        assert f"{100 * each.value:.1f} {interval}" in markdown.replace("*", "")
        assert re.search(rf"{100 * each.value:.1f}}}?(?: |\\\\ ){{\\tiny {re.escape(interval)}}}", latex)
    assert "acc@1 by target" in markdown
    differences = (tmp_path / "a" / "differences.md").read_text(encoding="utf-8")
    assert f"adjusted by Holm for all {compared.family} tests shown" in differences


def test_latex_is_well_formed_and_escaped(tmp_path):
    runs = [
        make(tmp_path / "a", "my_attack&50%", 0.5, settings={"loss": "a#b$c{d}~e^f\\g"}),
        make(tmp_path / "b", "my_attack&50%", 0.4, settings={"loss": "x"}),
    ]
    text = compare(runs).render("latex")
    assert r"my\_attack\&50\% (loss=a\#b\$c\{d\}\textasciitilde{}e\textasciicircum{}f\textbackslash{}g)" in text
    assert "$\\uparrow$" in text
    assert "$\\downarrow$" in text
    assert not re.search("[↑↓−÷·–“”]", text)
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    for name in ("table", "table*", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}")
    for rule in ("toprule", "midrule", "bottomrule", "caption{", "label{"):
        assert text.count(f"\\{rule}") == text.count("\\begin{tabular}")
    for layout, body in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 2
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(layout) - 1
    assert escape("a<b") == "a$<$b"


def test_minus_signs_are_minus_signs_in_latex(tmp_path):
    runs = [make(tmp_path / "a", "weak", 0.1), make(tmp_path / "b", "strong", 0.9)]
    text = compare(runs, metrics=["acc1"]).render("latex")
    assert re.search(r"\$-\$\d+\.\d points(?: |\\\\ )\{\\tiny \[\$-\$", text)


def test_text_is_cut_at_the_width_and_loses_nothing(compared):
    narrow, wide = compared.render("text", width=80), compared.render("text", width=400)
    assert "(continued)" in narrow
    assert "(continued)" not in wide
    assert max(len(line) for line in narrow.splitlines() if line.startswith("|")) <= 95
    for row in compared.rows:
        value = f"{100 * row.estimates['acc1'].value:.1f}"
        assert value in narrow
        assert value in wide


# ---------------------------------------------------------------- command line


def test_the_command_prints_every_format(suite, tmp_path):
    runs = [suite / "dmmia-vgg16-0", suite / "ppa-vgg16-0"]
    plain = call(*runs)
    assert plain.exit_code == 0, plain.output
    assert "## Target vgg16@synthfaces" in plain.stdout
    assert "adjusted by Holm for all 15 tests shown" in plain.stdout
    assert len(read(call(*runs, "--format", "csv").stdout)) == 3
    assert call(*runs, "--format", "markdown").stdout.startswith("## ")
    assert "\\toprule" in call(*runs, "--format", "latex").stdout
    found = json.loads(call(*runs, "--json", "--output", tmp_path / "out").stdout)
    assert found["family"] == 15
    assert [row["label"] for row in found["rows"]] == ["dmmia", "ppa", "floor (no attack)"]
    assert found["differences"][0]["estimate"]["params"]["detectable"] > 0
    assert len(found["files"]) == 10
    assert all(Path(file).is_file() for file in found["files"])
    assert "did you mean 'dmmia'" in call(*runs, "--reference", "dmia").stderr


def test_the_figure_shows_every_row_once(compared):
    from mibench.reports.figures.comparison import comparison_plot

    figure = comparison_plot(compared)
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted([row.label for row in compared.rows] + list(compared.targets))
    assert len(figure.axes) == 3
    heights = sorted(tick for tick in figure.axes[0].get_yticks())
    assert min(np.diff(heights)) >= 0.99  # no label on another


def test_columns_of_one_heading_stay_together_in_a_terminal():
    from mibench.reports.table_model import Cell, Column, Table, markdown_text

    columns = [Column(name="row", title="row"), Column(name="alone", title="alone" * 6)]
    columns += [Column(name=f"{n}", title=f"column {n}", group=f"attack {n // 2}") for n in range(8)]
    cells = tuple(Cell(value="x") for _ in columns)
    text = markdown_text([Table(name="t", title="T", columns=tuple(columns), rows=(cells,))], [], width=100)
    heads = [line for line in text.splitlines() if line.startswith("| row")]
    assert len(heads) > 1
    assert all(len(line) <= 100 for line in heads)
    for number in range(4):
        assert sum(line.count(f"attack {number}:") == 2 for line in heads) == 1
