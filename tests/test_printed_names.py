"""Names come from disks and files: whatever command prints them, they write no line and no colour of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli import commands
from test_engine import TOY, toy_run

from mibench.cli import cli
from mibench.cli.prose import say, tell

EVIL = "e\x1b[31mvil\nerror: forged\u202e"


def lines_of(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def walked(out: Path, folder: Path, people: Path, suite: Path) -> dict[str, list[list[object]]]:
    """What each command is called with so that it prints a name that a person, a disk or a file gave it."""
    runs = [path for path in out.iterdir() if path.is_dir()]
    one = next(path for path in runs if path.name.startswith("toyattack"))
    formats = [["compare", out, "--format", kind] for kind in ("text", "csv", "markdown", "latex")]
    return {
        "run": [
            ["run", "--attack", "toyattack", *flags(), "--output", out],
            ["run", "--attack", "toyattack", *flags(), "--protocol", EVIL, "--output", out],
        ],
        "audit": [["audit", "--model", EVIL, "--data", people]],
        "sweep": [["sweep", suite, "--dry-run", "--output", folder], ["sweep", EVIL], ["sweep", folder]],
        "list": [["list"], ["list", EVIL]],
        "show": [["show", "run", one], ["show", "card", EVIL], ["show", "run", folder]],
        "score": [["score", folder], ["score", one, "--device", "cpu"]],
        "train": [["train", "target", "toynet", "--dataset", "toyfaces", "--tag", EVIL]],
        "import": [["import", folder / EVIL, "--as", "target:toynet@toyfaces"]],
        "compare": [
            *formats,
            ["compare", folder],
            ["compare", one, "--metric", EVIL],
            ["compare", one, "--output", folder],
        ],
        "gate": [
            ["gate", "--baseline", one, one, "--max-increase", "acc1=90"],
            ["gate", "--baseline", folder, one],
            ["gate", "--baseline", one / EVIL, one],
            ["gate", "--baseline", one, one, "--attack", EVIL],
            ["gate", "--baseline", one, one, "--max-increase", f"{EVIL}=1"],
        ],
        "report": [
            ["report", one, "--output", folder / "page.html"],
            ["report", folder, "--output", folder / "page.html"],
            ["report", one / EVIL, "--output", folder / "page.html"],
        ],
        "view": [["view", folder / EVIL]],
        "verdicts export": [
            ["verdicts", "export", one, "--output", folder / "panels", "--people", "1"],
            ["verdicts", "export", one / EVIL],
        ],
        "verdicts import": [["verdicts", "import", one, folder / EVIL]],
        "doctor": [["doctor"]],
        "fetch": [
            ["fetch", "--list", "--to", folder],
            ["fetch", EVIL],
            ["fetch", "celeba", "--to", folder],
            ["fetch", "inception", "--offline", "--to", folder],
        ],
        "data fixture": [["data", "fixture", "afhq", "--output", folder / "fixture", "--images", "2", "--size", "8"]],
        "data preview": [["data", "preview", "toyfaces", "--output", folder / "seen.png", "--people", "1"]],
        "data verify": [["data", "verify", "folder", "--root", people], ["data", "verify", EVIL]],
    }


def flags() -> list[str]:
    return [part for name, value in TOY.items() for part in (f"--{name}", value)] + ["--device", "cpu"]


@pytest.mark.parametrize("name", commands(cli))
def test_no_command_prints_a_name_as_it_is(toy: Path, tmp_path: Path, name: str) -> None:
    out, people = tmp_path / f"runs {EVIL}", tmp_path / f"people {EVIL}"
    (folder := tmp_path / f"empty {EVIL}").mkdir()
    (people / "private" / "train" / EVIL).mkdir(parents=True)
    (people / "private" / "train" / EVIL / f"{EVIL}.jpg").write_text("no picture")
    if name in ("run", "show", "score", "compare", "gate", "report", "verdicts export", "verdicts import"):
        toy_run(out, settings={"protocol.identities": 2})
        if name in ("compare", "gate"):  # names that stand in the records, not on the disk
            for run in list(out.iterdir()):
                shutil.copytree(run, out / f"copy {EVIL} {run.name}")
                record = json.loads((run / "run.json").read_text())
                record["spec"]["target"]["card"] += EVIL
                record["environment"]["device_name"] = EVIL
                (run / "run.json").write_text(json.dumps(record))
    else:
        out.mkdir()
        (out / "toyattack").mkdir()
    suite = tmp_path / f"suite {EVIL}.yaml"
    suite.write_text(
        json.dumps(
            {
                "name": "mine",
                "protocol": "toy",
                "dataset": "toyfaces",
                "attacks": [{"attack": "toyattack", "label": EVIL}],
                "targets": ["toynet", EVIL],
                "seeds": [0],
            }
        )
    )
    for words in walked(out, folder, people, suite)[name]:
        done = CliRunner().invoke(cli, [str(word) for word in words], color=False)
        assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
        assert done.stdout + done.stderr, words
        for text in (done.stdout, done.stderr):
            for line in lines_of(text):
                assert line.isprintable(), (words, line)
                assert not line.startswith("error: forged"), words


def test_the_two_ways_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a {EVIL}")
    tell(f"| {EVIL} |")
    escaped = "e\\x1b[31mvil\\nerror: forged\\u202e"
    assert capsys.readouterr().out == f"a {escaped}\n| {escaped} |\n"
