"""The main job with the shipped weights, end to end: attack, floor, judge, tables, figures, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mibench
from mibench.results import open_run

MADE = ("tables/summary.md", "tables/summary.csv", "figures/contact_sheet.png", "figures/identities.svg", "samples.csv")


def check(run: mibench.Run) -> None:
    assert not run.missing
    assert run.floor is not None
    for name in ("acc1", "acc5", "knn_distance", "true_identity_error", "frechet_judge", "div_feat_ratio"):
        assert run.metrics[name]["value"] is not None, run.metrics[name]["reason"]
    assert run.metrics["fid"]["value"] is None or os.environ.get("MIBENCH_INCEPTION")
    assert all((run.path / name).stat().st_size > 0 for name in MADE)
    opened = open_run(run.path)
    assert opened.samples["selected"].sum() == 3 * 2
    # even two epochs move candidates towards the target: the loss that is minimised falls
    loss = opened.curves["L_ce"].mean(dim=0)
    assert float(loss[-1]) < float(loss[0])


def test_the_smoke_protocol_runs_from_shipped_weights(home: Path, tmp_path: Path) -> None:
    first = mibench.run(protocol="smoke", out=tmp_path)
    check(first)
    again = mibench.run(protocol="smoke", out=tmp_path)
    assert again.reused
    assert again.path == first.path


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ir152", "facenet64"])
def test_the_other_targets_run_too(home: Path, tmp_path: Path, target: str) -> None:
    check(mibench.run(target=target, protocol="smoke", out=tmp_path))


@pytest.mark.slow
def test_every_attack_runs_from_shipped_weights_and_is_compared(home: Path, tmp_path: Path) -> None:
    from mibench.sweep.conduct import sweep
    from mibench.sweep.suite import load_suite

    done = sweep(load_suite("smoke"), tmp_path, jobs=2, device="cpu")
    assert not done.failed
    for name in ("sweep.csv", "comparison/comparison.csv", "comparison/comparison.tex"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.gpu
@pytest.mark.parametrize("target", ["vgg16", "ir152", "facenet64"])
def test_the_main_job_runs_on_a_gpu(home: Path, tmp_path: Path, target: str) -> None:
    check(mibench.run(target=target, protocol="smoke", device="cuda", out=tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_attack_ends_with_the_same_bytes(home: Path, tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mibench", "run", "--protocol", "smoke", "--output", str(folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    kills = 0
    for tenth in range(10):  # spread over the run: start-up, search, attack, judging, drawing
        child = start(tmp_path / "killed")
        try:
            child.wait(seconds * (0.15 + 0.07 * tenth))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
    assert kills >= 3
    assert start(tmp_path / "killed").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but times and machines: run.json, the log, the lock and the sidecars of units and state."""
    ours = [
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", "log.jsonl", ".lock")
    ]
    kept = [path for path in ours if path.parent.name != "units" or path.suffix != ".json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.name != "state.json"}


def test_the_floor_searches_as_its_attack_does() -> None:
    from mibench.plan import Request, make_plan
    from mibench.runner import floor_plan

    changed = Request(protocol="smoke", settings={"attack": {"pool_size": 64, "truncation": 0.5, "learning_rate": 0.1}})
    floor = floor_plan(changed, make_plan(changed)).spec.attack_settings
    assert (floor["pool_size"], floor["truncation"], floor["candidates"]) == (64, 0.5, 4)
    by_preset = Request(protocol="smoke", preset="paper")
    assert floor_plan(by_preset, make_plan(by_preset)).spec.attack_settings["candidates"] == 200
