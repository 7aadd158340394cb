"""Runs and baselines that came from anybody, at a gate: their text is inert, their folders and code are not gone to."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from comparable_runs import edit
from html_pages import HOSTILE
from test_gate import call, finished

import mibench
from mibench.api import MibenchError
from mibench.reports.gate import baseline as baselines
from mibench.reports.gate.gate import PrintedGate, gate, requests, write_baseline

LINES = "x\nPASS: forged\r\n::error::forged\u2028# forged\n| forged |\n<!-- @team -->"
TEXTS = ("".join(HOSTILE), LINES, "=HYPERLINK(1)|`@team`[x](javascript:1)]]>")
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f\u2028\u202a-\u202e\u2066-\u2069]")


class Tags(HTMLParser):
    """Names of the elements that a text would have if it were HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.names.add(tag)


def assert_inert(result: PrintedGate) -> None:
    """No format has an element, a mention, a hidden mark or a line that a file made."""
    for kind in ("text", "markdown", "junit"):
        shown = result.render(kind)
        assert not UNSEEN.search(shown), kind
        assert not re.search(r"(?m)^\W*(PASS: forged|:+error|# forged|\| forged)", shown), kind
    markdown = result.render("markdown")
    assert not Tags(markdown).names
    assert not re.search(r"@team|\]\(", markdown)
    suite = ElementTree.fromstring(result.render("junit"))
    assert {element.tag for element in suite.iter()} <= {"testsuite", "testcase", "system-out", "failure", "error"}
    json.loads(result.render("json"))


def forged(file: Path, change: Any) -> Path:
    """The file with other content and the checksum that belongs to it."""
    content = json.loads(file.read_text())
    content.pop("checksum")
    change(content)
    file.write_text(json.dumps(content | {"checksum": baselines._checksum(content)}))
    return file


@pytest.fixture
def leak(tmp_path: Path) -> Path:
    return write_baseline(finished(tmp_path, 0.35), tmp_path / "leak.json")


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("level", [0.1, 0.8], ids=["passes", "fails"])
def test_text_of_a_baseline_is_inert(leak: Path, tmp_path: Path, text: str, level: float) -> None:
    """A checksum is no signature: whoever edits the file can compute it."""

    def poison(content: dict[str, Any]) -> None:
        content["target"] |= {"card": text, "sha256": text}
        for row in content["rows"]:
            row |= {"label": text + row["label"], "attack": text + row["attack"]}
            row["circumstances"] = dict.fromkeys(row["circumstances"], text)
            row["metrics"]["acc1"] |= {"title": text, "unit": text}
            row["without_value"] = {"acc5": text}
            del row["metrics"]["acc5"]

    write_baseline(finished(tmp_path, level, tag="+new"), tmp_path / "new.json")
    new, old = (forged(tmp_path / name, poison) for name in ("new.json", "leak.json"))
    result = gate(new, old, margins={"acc1": 0.05, "acc5": 0.05})
    assert text in result.as_plain()["reasons"][-1]["text"]  # type: ignore[index]
    assert_inert(result)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_of_runs_is_inert(tmp_path: Path, text: str) -> None:
    old, new = finished(tmp_path, 0.35), finished(tmp_path, 0.8, tag="+new")
    for run in (old, new):
        for folder in (run, run.parent / run.name.replace("ppa", "floor")):
            edit(folder, "run.json", lambda record: record["spec"]["target"].update(card=text))
            edit(folder, "run.json", lambda record: record["spec"]["protocol"].update(name=text))
            edit(folder, "metrics.json", lambda metrics: metrics["acc5"].update(value=None, low=None, high=None))
            edit(folder, "metrics.json", lambda metrics: metrics["acc5"].update(reason=text))
    assert_inert(gate(new, old, margins={"acc1": 0.05, "acc5": 0.05}))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_refusal_is_one_line_whatever_a_baseline_is_called_by(leak: Path, tmp_path: Path, text: str) -> None:
    def poison(content: dict[str, Any]) -> None:
        content["rows"][0]["made_with"]["settings"] = {text: text}

    result = call("--baseline", forged(leak, poison), finished(tmp_path, 0.1, tag="+new"))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not UNSEEN.search(result.stderr)


EVIL = """from pathlib import Path

Path("executed").touch()
"""


def test_code_that_only_a_baseline_names_is_not_run(
    leak: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    forged(leak, lambda content: content["rows"][0]["request"].update(attack="evil.py:Evil"))
    result = call("--baseline", leak, "--target", "vgg16", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "evil.py:Evil, whose code would be run; say that it may: --attack evil.py:Evil" in result.stderr
    assert not (tmp_path / "executed").exists()
    with pytest.raises(MibenchError):  # it is no attack, and is asked for
        mibench.gate(baseline=leak, target="vgg16", attacks=["evil.py:Evil"], out=tmp_path / "out", device="cpu")
    assert (tmp_path / "executed").exists()


def test_a_baseline_cannot_name_folders_of_a_machine(leak: Path) -> None:
    def planted(content: dict[str, Any]) -> None:
        places = {"root": "/home/somebody", "public_root": "../../faces", "spread": 0.5}
        content["rows"][0]["request"]["settings"] = {"dataset": places}

    ((_, _, request, _),) = requests(forged(leak, planted))
    assert request["settings"] == {"dataset": {"spread": 0.5}}


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["metrics"]["acc1"]["by_identity"].update({"0": float("nan")}),
        lambda row: row["metrics"]["acc1"]["by_identity"].update({"../0": 0.5}),
        lambda row: row["metrics"]["acc1"].update(by_identity={"0": "=1+1"}),
        lambda row: row.update(samples="many"),
        lambda row: row.update(request="rm"),
    ],
)
def test_values_of_another_kind_are_refused_in_one_line(leak: Path, tmp_path: Path, change: Any) -> None:
    result = call("--baseline", forged(leak, lambda content: change(content["rows"][0])), tmp_path / "ppa")
    assert result.exit_code == 2
    assert re.search("is incomplete|is no number of JSON", result.stderr)
    assert len(result.stderr.splitlines()) == 1


def test_the_floor_of_a_run_lies_beside_it_and_nowhere_else(tmp_path: Path) -> None:
    run = finished(tmp_path / "runs", 0.35)
    (tmp_path / "runs" / "floor").rename(tmp_path / "floor")
    for name in ("../floor", str(tmp_path / "floor"), ".."):
        edit(run, "run.json", lambda record, name=name: record.update(floor=name))
        result = call("--baseline", run, run)
        assert result.exit_code == 2
        assert "floor should be the name of a folder or null" in result.stderr
