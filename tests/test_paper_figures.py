"""Figures for papers: the same look everywhere, readable without colour, equal bytes, inert names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from comparable_runs import edit, make

from mibench.cli import cli
from mibench.reports.compare import PrintedComparison, compare
from mibench.reports.figures.palette import LOOKS, TITLES, look_of, looks_of, title_of
from mibench.reports.figures.paper import WIDTHS, people_plot, queries_plot, targets_plot

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


def test_files_are_vectors_of_both_widths_with_equal_bytes(comparison: PrintedComparison, tmp_path: Path) -> None:
    files = [file for file in comparison.write(tmp_path / "a", paper=True) if file.parent.name == "paper"]
    assert [file.name for file in files] == [
        f"{name}-{width}.pdf" for name in ("queries", "people", "targets") for width in WIDTHS
    ]
    again = [file for file in comparison.write(tmp_path / "b", paper=True) if file.parent.name == "paper"]
    for file, other in zip(files, again, strict=True):
        content = file.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Subtype /Image" not in content
        assert b"CreationDate" not in content
        assert content == other.read_bytes()


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


def test_hostile_names_are_drawn_as_they_are(runs: Path, tmp_path: Path) -> None:
    for run in runs.iterdir():
        shutil.copytree(run, tmp_path / "runs" / run.name)
        edit(
            tmp_path / "runs" / run.name,
            "run.json",
            lambda record: record["spec"]["target"].update(card=record["spec"]["target"]["card"] + "$\\frac{\u202e"),
        )
    done = CliRunner().invoke(
        cli, ["compare", str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--paper", "--json"]
    )
    assert done.exit_code == 0, done.output
    files = json.loads(done.stdout)["files"]
    assert sum(file.endswith(".pdf") for file in files) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--paper writes files; name a folder for them with --output"),
        (["--output", "out", "--by", "defence"], "--paper draws attacks; drop --paper or --by defence"),
    ],
)
def test_paper_needs_a_folder_and_attacks(runs: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(cli, ["compare", str(runs), "--paper", *options])
    assert done.exit_code == 2
    assert message in done.stderr
