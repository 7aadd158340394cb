"""Figures for papers: the same look everywhere, readable without colour, equal bytes, inert names."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from comparable_runs import edit, make
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from mibench.cli import cli
from mibench.reports.compare import PrintedComparison, compare
from mibench.reports.compare_defences import PrintedMatrix
from mibench.reports.figures.palette import LOOKS, TITLES, defence_title, look_of, looks_of, title_of
from mibench.reports.figures.paper import people_plot, queries_plot, targets_plot
from mibench.reports.figures.paper_defences import frontier_plot, leakage_plot
from mibench.reports.figures.paper_files import WIDTHS
from mibench.reports.figures.style import drawable, inert

COUNTED = {f"{stage}_queries_{way}" for stage in ("prepare", "attack") for way in ("forward", "backward")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two attacks and their floor on two targets."""
    folder = tmp_path_factory.mktemp("runs")
    for target in ("vgg16", "ir152"):
        make(folder / f"floor-{target}", "floor", 0.1, target=target)
        for attack, level in (("ppa", 0.6), ("gmi", 0.3)):
            make(folder / f"{attack}-{target}", attack, level, target=target, floor=f"floor-{target}")
    return folder


@pytest.fixture(scope="module")
def comparison(runs: Path) -> PrintedComparison:
    compared = compare(runs, metrics=["acc1"])
    assert isinstance(compared, PrintedComparison)
    return compared


def test_looks_can_be_told_apart_without_colour() -> None:
    attacks = ["floor", "ppa", "dmmia", "gmi", "kedmi", "mirror-w", "mirror-b"]
    assert len({LOOKS[name].marker for name in attacks}) == len(attacks)
    assert len({str(LOOKS[name].line) for name in attacks if name != "floor"}) == len(attacks) - 1
    defences = sorted(set(LOOKS) - set(attacks))
    assert len({(LOOKS[name].marker, str(LOOKS[name].line)) for name in defences}) == len(defences)
    assert set(TITLES) <= set(LOOKS)


def test_a_name_looks_the_same_whatever_stands_beside_it() -> None:
    alone = looks_of([("theirs", "theirs")])["theirs"]
    beside = looks_of([("ppa", "ppa"), ("gmi", "gmi"), ("theirs", "theirs")])
    assert beside["theirs"] == alone == look_of("theirs")
    assert beside["ppa"] == LOOKS["ppa"]
    rows = looks_of([("ppa", "ppa"), ("ppa:margin", "ppa"), ("ppa (steps=3)", "ppa")])
    assert len({look.colour for look in rows.values()}) == 1
    assert len({look.marker for look in rows.values()}) == 3


def test_readers_read_names() -> None:
    assert title_of("ppa:margin", "ppa") == "PPA:margin"
    assert title_of("floor (no attack)", "floor") == "floor (no attack)"
    assert title_of("theirs", "theirs") == "theirs"


def assert_vector(file: Path) -> None:
    content = file.read_bytes()
    if file.suffix == ".pdf":
        assert content.startswith(b"%PDF")
        assert b"/Subtype /Image" not in content
        assert b"CreationDate" not in content
    else:
        assert b"<svg" in content
        assert b"<image" not in content
        assert b"<dc:date>" not in content


def test_files_are_vectors_of_both_widths_with_equal_bytes(comparison: PrintedComparison, tmp_path: Path) -> None:
    files = [file for file in comparison.write(tmp_path / "a", paper=True) if file.parent.name == "paper"]
    assert [file.name for file in files] == [
        f"{name}-{width}.{ending}"
        for name in ("queries", "people", "targets")
        for width in WIDTHS
        for ending in ("pdf", "svg")
    ]
    again = [file for file in comparison.write(tmp_path / "b", paper=True) if file.parent.name == "paper"]
    for file, other in zip(files, again, strict=True):
        assert_vector(file)
        assert file.read_bytes() == other.read_bytes()


def test_what_is_drawn_is_what_was_measured(comparison: PrintedComparison) -> None:
    for name, width in WIDTHS.items():
        people = people_plot(comparison, width)
        assert people.get_figwidth() == width, name
        panels = [axes for axes in people.axes if axes.get_visible()]
        assert [axes.get_title(loc="left") for axes in panels] == list(comparison.targets)
        rows = [row for row in comparison.rows if row.target == comparison.targets[0]]
        for row, line in zip(rows, panels[0].get_lines(), strict=True):
            values = list(line.get_ydata())
            assert values == sorted(values, reverse=True)
            assert sum(values) / len(values) == pytest.approx(row.estimates["acc1"].value)
        queries = queries_plot(comparison, width)
        (first, *_) = queries.axes[0].collections[1].get_offsets()
        row = rows[0]
        assert first[0] == pytest.approx(sum(cost for name, cost in row.cost.items() if cost and name in COUNTED))
        assert first[1] == pytest.approx(row.estimates["acc1"].value)
    labels = [label.get_text() for label in targets_plot(comparison, WIDTHS["one-column"]).axes[0].get_yticklabels()]
    titles = [title_of(row.label, row.attack) for row in comparison.rows if row.target == comparison.targets[0]]
    assert titles[-1] == "floor (no attack)"
    assert labels == [text for title in titles for text in (title, *comparison.targets)]


# ---------------------------------------------------------------- defences


@pytest.fixture(scope="module")
def matrix(defended: Path) -> PrintedMatrix:
    compared = compare(defended, by="defence", metrics=["acc1"])
    assert isinstance(compared, PrintedMatrix)
    return compared


def test_defences_are_drawn_for_papers(matrix: PrintedMatrix, tmp_path: Path) -> None:
    files = [file for file in matrix.write(tmp_path, paper=True) if file.parent.name == "paper"]
    assert [file.name for file in files] == [
        f"{name}-{width}.{ending}" for name in ("leakage", "frontier") for width in WIDTHS for ending in ("pdf", "svg")
    ]
    for file in files:
        assert_vector(file)


def test_leakage_of_each_defence_is_what_was_measured(matrix: PrintedMatrix) -> None:
    axes = leakage_plot(matrix, WIDTHS["one-column"]).axes[0]
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    attacks = [attack for attack in matrix.attacks if attack not in matrix.floors]
    rows = [defence_title(row.label, row.defence) for row in matrix.rows]
    assert labels == [text for attack in attacks for text in (title_of(attack, attack), *rows)]
    drawn = {
        round(float(height), 6): float(value)
        for points in axes.collections
        if isinstance(points, PathCollection) and points.get_zorder() == 3
        for value, height in points.get_offsets()
    }
    heights = dict(enumerate(axes.get_yticks()))
    for block, attack in enumerate(attacks):
        for number, row in enumerate(matrix.rows, start=1):
            value = row.attacks[attack].estimates["acc1"].value
            assert drawn[round(heights[block * (len(rows) + 1) + number], 6)] == value


def test_the_frontier_names_every_defence_once(matrix: PrintedMatrix) -> None:
    for width in WIDTHS.values():
        fig = frontier_plot(matrix, width)
        assert fig.get_figwidth() == width
        names = [text.get_text() for text in fig.legends[0].get_texts()]
        assert sorted(names) == ["open (control)", "shield", "undefended twin", "undefended, other training", "veil"]


def test_defences_have_the_names_that_readers_know() -> None:
    assert defence_title("bido (lambda_x=0.1)", "bido") == "BiDO (lambda_x=0.1)"
    assert defence_title("control: ls", "ls") == "label smoothing (control)"
    assert defence_title("bido+ls", "bido+ls") == "BiDO + label smoothing"
    assert defence_title("none", "none") == "no defence"


# ---------------------------------------------------------------- names


HOSTILE = "$\\frac{\u202e</text>\u4e2d\u6587 $x_1$ \x1b[2J"


def test_hostile_names_are_drawn_as_they_are(runs: Path, tmp_path: Path) -> None:
    """No formula is read, no letter is missing: matplotlib warns of neither."""
    for run in runs.iterdir():
        shutil.copytree(run, tmp_path / "runs" / run.name)
        edit(
            tmp_path / "runs" / run.name,
            "run.json",
            lambda record: record["spec"]["target"].update(card=record["spec"]["target"]["card"] + HOSTILE),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = CliRunner().invoke(
            cli, ["compare", str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--paper", "--json"]
        )
    assert done.exit_code == 0, done.output
    files = json.loads(done.stdout)["files"]
    assert sum(file.endswith(".pdf") for file in files) == 6


def test_texts_of_a_figure_are_escaped_and_its_numbers_are_not() -> None:
    fig = Figure()
    axes = fig.subplots()
    axes.set_title(HOSTILE)
    axes.set_yticks([0, 1], ["plain", HOSTILE])
    axes.plot([1, 1000], [0, 1], label=HOSTILE)
    axes.set_xscale("log")
    axes.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inert(fig).savefig(io.BytesIO(), format="png")
    shown = drawable(HOSTILE)
    assert shown.isascii()
    assert "\\u4e2d" in shown
    assert "\\frac" in shown
    assert axes.get_title() == shown
    assert axes.get_yticklabels()[1].get_text() == shown
    assert axes.get_xticklabels()[1].get_parse_math()  # powers of ten
    assert drawable("← KNN distance² ✓ é") == "← KNN distance² ✓ é"


def test_paper_needs_a_folder(runs: Path) -> None:
    done = CliRunner().invoke(cli, ["compare", str(runs), "--paper"])
    assert done.exit_code == 2
    assert "--paper writes files; name a folder for them with --output" in done.stderr
