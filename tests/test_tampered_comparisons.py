"""Runs that came from anybody, compared: text of their files is inert in every format that a comparison has."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from comparable_runs import edit, make
from html_pages import HOSTILE, assert_inert, check

from mibench.reports.compare import compare
from mibench.reports.page.page import runs_index, runs_page
from mibench.results import ComparedBy, open_run
from mibench.viewer import Viewer

FORMULAS = ("=HYPERLINK(1)", "+1+1", "-2+3", "@SUM(1)", "\t=1", "'=1")
LATEX = "\\input{/etc/passwd}\\write18{ls}%^^5c & # _ { } ~ $x$"
LINES = "x\nforged: no leak\r\n::error::forged\u2028# forged\n| forged |\n\\\\ forged"
TEXTS = ("".join(HOSTILE), LATEX, LINES, *FORMULAS)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u2028\u202a-\u202e\u2066-\u2069]")
BY: tuple[ComparedBy, ...] = ("attack", "defence")


@pytest.fixture(params=TEXTS, ids=range(len(TEXTS)))
def poisoned(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A twin and a defended target under an attack and the floor; every text that is theirs to choose is hostile."""
    text: str = request.param
    for tag in ("", "shield"):
        for attack, level in (("ppa", 0.6), ("floor", 0.1)):
            run = make(tmp_path / f"{attack}-{tag}", attack, level, target=f"net{tag}", settings={text: text})
            edit(run, "run.json", lambda record, tag=tag: spoil(record, tag, text))
            edit(run, "metrics.json", lambda metrics: spoil_metrics(metrics, text))
    return tmp_path, text


def spoil(record: dict[str, Any], tag: str, text: str) -> None:
    spec = record["spec"]
    if spec["attack"] != "floor":
        spec["attack"], spec["variant"] = text, text
    twin = f"{text}net"
    spec["target"] |= {"card": f"{text}net{tag and '+' + tag}", "architecture": text, "sha256": f"sha of {tag}"}
    for kind in ("judge", "prior"):
        spec[kind] |= {"card": text, "architecture": text}
    spec["protocol"] |= {"name": text, "description": text}
    spec |= {"dataset_digest": text, "precision": text, "preset": text}
    defence = {"name": text, "settings": {text: text}, "twin": twin, "twin_sha256": "sha of ", "control": False}
    record["attacked"] = {"test_accuracy": 0.9, "test_images": 100, "seconds": 3.0, "defence": defence if tag else None}
    record |= {"digest": text, "missing": {text: text}}
    record["environment"] = {"device": text, "device_name": text, "versions": {text: text}}


def spoil_metrics(metrics: dict[str, Any], text: str) -> None:
    for estimate in metrics.values():
        estimate |= {name: text for name in ("unit", "version", "extractor") if name in estimate}
    metrics["coverage"] |= {"value": None, "low": None, "high": None, "reason": text}


@pytest.mark.parametrize("by", BY)
def test_pages_are_inert(poisoned: tuple[Path, str], by: ComparedBy) -> None:
    folder, _ = poisoned
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that a figure lacks, and of formulas
        html = runs_page(folder, by=by)
    assert_inert(html)
    assert len(check(html).all("img")) > 0


@pytest.mark.parametrize("by", BY)
def test_text_and_tables_are_inert(poisoned: tuple[Path, str], by: ComparedBy) -> None:
    folder, text = poisoned
    comparison = compare(folder, by=by)
    for kind in ("text", "markdown", "csv", "latex"):
        assert not UNSEEN.search(comparison.render(kind)), kind
        assert not re.search(r"(?m)^[^\w\\]*(::error::)?forged", comparison.render(kind)), kind  # a line of its own
    for row in csv.reader(io.StringIO(comparison.render("csv"))):
        for cell in row:
            assert not re.match(r"\s*[=+@]", cell), cell
            assert not cell.startswith("-") or re.fullmatch(r"-[\d.e+-]+", cell), cell
    tags = Tags(comparison.render("markdown"))
    assert tags.names <= {"br"}
    latex = comparison.render("latex")
    assert not re.search(r"\\(input|write|HYPERLINK|frac)", latex)
    assert not re.search(r"(?<!\\)%(?!\n)[^\n]*passwd|\^\^", latex)
    assert len(json.dumps(comparison.as_plain())) > len(text)


class Tags(HTMLParser):
    """Names of the elements that a text would have if it were HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.names.add(tag)


def test_files_of_a_comparison_stay_in_their_folder(poisoned: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = poisoned
    out = tmp_path / "out"
    for by in BY:
        for file in compare(folder, by=by).write(out / by, paper=True):
            assert (out / by).resolve() in file.resolve().parents
            assert re.fullmatch(r"[a-z-]+\.(csv|md|tex|png|svg|pdf)", file.name)
            if file.suffix == ".svg":
                assert "<script" not in file.read_text(encoding="utf-8")


def test_the_viewer_shows_hostile_comparisons_inert(poisoned: tuple[Path, str]) -> None:
    folder, text = poisoned
    with Viewer(folder) as viewer:
        for path in ("/", "/compare/attack", "/compare/defence", "/run/ppa-shield"):
            status, html = viewer.answer(path)
            assert status == 200, html
            assert_inert(html)
    assert_inert(runs_index({text: open_run(folder / "ppa-")}, text))
