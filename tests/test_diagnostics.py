"""Diagnostics: metrics beside those of a protocol, measured during a run or after it, which change nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import mibench
from mibench.api import MibenchError
from mibench.cli import cli
from mibench.reports.compare import compare
from mibench.results import difference, open_run, per_identity
from mibench.runs.protocol import load_protocol
from mibench.settings import Layer

NAMES = ("--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy", "--device", "cpu")
ASKED = ("--set", "protocol.diagnostics=[gradients]")
COLUMNS = ("log_gradient_norm_public", "gradient_cosine", "flat_confident")


def run(folder: Path, *more: str, attack: str = "toyattack") -> Path:
    done = CliRunner().invoke(cli, ["run", "--attack", attack, *NAMES, *more, "--output", str(folder)])
    assert done.exit_code == 0, done.output
    return next(folder.glob(f"{attack}-*"))


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("samples.csv", "metrics.json")}


def test_they_are_measured_after_a_run_as_during_it(toy: Path, tmp_path: Path) -> None:
    before = run(tmp_path / "before")
    during = run(tmp_path / "during", *ASKED)
    assert before.name == during.name  # one digest
    plain = json.loads((before / "metrics.json").read_text())
    assert not set(COLUMNS) & set(plain)
    assert not set(COLUMNS) & set(open_run(before).samples)
    done = CliRunner().invoke(cli, ["score", str(before), "--metric", "gradients", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert files(before) == files(during)
    both = json.loads((before / "metrics.json").read_text())
    assert {name: both[name] for name in plain} == plain
    scored = open_run(before)
    assert scored.record["diagnostics"] == ["gradients"]
    assert scored.protocol == open_run(during).protocol == "toy v3"
    assert per_identity(scored, "gradient_cosine").eq(1).all()
    assert scored.metrics["gradient_cosine"].extractor == "attacked model"


def test_they_stay_with_the_run_and_out_of_the_way(toy: Path, tmp_path: Path) -> None:
    folder = run(tmp_path)
    floor = next(tmp_path.glob("floor-*"))
    untouched = files(floor)
    mibench.score(folder, metrics=["gradients"], device="cpu")
    measured = files(folder)
    assert files(floor) == untouched
    mibench.score(folder, device="cpu")  # again, without asking
    assert files(folder) == measured
    assert (
        "complete already"
        in CliRunner().invoke(cli, ["run", "--attack", "toyattack", *NAMES, "--output", str(tmp_path)]).stderr
    )
    assert files(folder) == measured
    found = compare([folder, floor])
    assert not set(COLUMNS) & set(found.tested)
    assert found.family  # a run with and one without them compare
    assert difference(open_run(folder), open_run(folder), "log_gradient_norm_public").value == 0


def test_a_finished_run_gets_them_without_another_attack(toy: Path, tmp_path: Path) -> None:
    folder = run(tmp_path)
    units = {file: file.stat().st_mtime_ns for file in folder.glob("units/*")}
    run(tmp_path, *ASKED)
    assert "gradient_cosine" in open_run(folder).metrics
    assert {file: file.stat().st_mtime_ns for file in folder.glob("units/*")} == units


def test_unknown_ones_are_refused(toy: Path, tmp_path: Path) -> None:
    folder = run(tmp_path)
    before = files(folder)
    for arguments in (
        ["score", str(folder), "--metric", "gradient", "--device", "cpu"],
        ["run", *NAMES, "--set", "protocol.diagnostics=[gradient]", "--output", str(tmp_path / "other")],
    ):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 2
        assert "did you mean 'gradients'" in done.stderr
    with pytest.raises(MibenchError, match="unknown metric"):
        mibench.score(folder, metrics=["nothing"], device="cpu")
    assert files(folder) == before


def test_a_protocol_with_them_is_the_same_protocol() -> None:
    plain, _ = load_protocol("equal")
    asked, _ = load_protocol("equal", [Layer("--set", {"diagnostics": ["gradients"]})])
    assert asked.title == plain.title
    assert asked.digest_fields() == plain.digest_fields()
    assert asked.diagnostics == ("gradients",)
