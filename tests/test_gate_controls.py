"""What is no attack is no business of a gate: the floor, and controls that see private images."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparable_runs import edit
from test_gate import call, finished

from mibench.reports.gate import baseline as baselines
from mibench.reports.gate.gate import gate


def control(folder: Path, level: float, tag: str = "") -> Path:
    """A finished attack, its floor and, beside them, a control that saw private images."""
    run = finished(folder / "control", level, tag=tag)
    run.rename(folder / f"ceiling{tag}")
    run = folder / f"ceiling{tag}"
    edit(run, "run.json", lambda record: record.update(sees_private=True, floor=f"floor{tag}"))
    edit(run, "run.json", lambda record: record["spec"].update(attack="ceiling"))
    return run


@pytest.mark.parametrize("update", [["--update-baseline"], []], ids=["baseline", "gate"])
@pytest.mark.parametrize(
    ("attack", "why"),
    [
        ("ceiling", "is a control that sees images of the private people"),
        ("ceiling:styles", "is a control that sees images of the private people"),
        ("floor", "is what the prior gives without an attack"),
    ],
)
def test_what_is_no_attack_is_refused_before_anything_runs(
    tmp_path: Path, update: list[str], attack: str, why: str
) -> None:
    file, output = tmp_path / "leak.json", tmp_path / "runs"
    result = call("--baseline", file, "--target", "vgg16", "--attack", attack, "--output", output, *update)
    assert result.exit_code == 2
    assert result.stderr == f"error: {attack} {why}: an increase of it is no leak; name an attack with --attack\n"
    assert not file.exists()
    assert not output.exists()


def test_a_control_that_is_named_as_a_run_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path, 0.35)
    seen = control(tmp_path, 0.9)
    for arguments in (
        ("--baseline", run, seen),
        ("--baseline", seen, run),
        ("--baseline", run, run, seen),
        ("--baseline", tmp_path / "leak.json", "--update-baseline", seen),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {seen} is a control that sees images of the private people")
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "leak.json").exists()


def test_a_control_that_lies_among_runs_decides_nothing(tmp_path: Path) -> None:
    """It gets far more out of the second folder than out of the first, and its increase is no leak."""
    for folder, level in (("old", 0.1), ("new", 0.9)):
        finished(tmp_path / folder, 0.35)
        control(tmp_path / folder, level)
    alone = gate(tmp_path / "new" / "ppa", tmp_path / "old" / "ppa")
    among = gate(tmp_path / "new", tmp_path / "old")
    assert among.as_plain() == alone.as_plain()
    assert [test.attack for test in among.tests] == ["ppa"]
    assert all(row.attack != "ceiling" for row in baselines.of_runs([tmp_path / "new"]).rows)


def test_a_folder_of_controls_is_no_baseline(tmp_path: Path) -> None:
    control(tmp_path / "runs", 0.9)
    result = call("--baseline", tmp_path / "leak.json", "--update-baseline", tmp_path / "runs")
    assert result.exit_code == 2
    assert "the runs hold no attack, only floors" in result.stderr
    assert not (tmp_path / "leak.json").exists()
