"""The main job with the shipped weights, end to end: attack, floor, judge, tables, figures, resume."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerator import an_accelerator  # noqa: F401
from test_resume import forking, kill_and_finish

import mibench
from mibench.results import StoredRun, open_run

MADE = ("tables/summary.md", "tables/summary.csv", "figures/contact_sheet.png", "figures/identities.svg", "samples.csv")


def check(run: StoredRun) -> None:
    assert not run.missing
    assert run.floor is not None
    for name in ("acc1", "acc5", "knn_distance", "true_identity_error", "frechet_judge", "div_feat_ratio"):
        assert run.metrics[name].value is not None, run.metrics[name].reason
    assert run.metrics["fid"].value is None or os.environ.get("MIBENCH_INCEPTION")
    assert all((run.path / name).stat().st_size > 0 for name in MADE)
    opened = open_run(run.path)
    assert opened.samples["selected"].sum() == 3 * 2
    # even two epochs move candidates towards the target: the loss that is minimised falls
    loss = opened.curves["L_ce"].mean(dim=0)
    assert float(loss[-1]) < float(loss[0])


def test_the_smoke_protocol_runs_from_shipped_weights(smoke_world: Path, home: Path, tmp_path: Path) -> None:
    (first,) = (smoke_world / "runs").glob("dmmia-*")
    check(open_run(first))
    shutil.copytree(smoke_world / "runs", tmp_path / "runs")
    shutil.copytree(smoke_world / "home", home)
    again = mibench.run(protocol="smoke", out=tmp_path / "runs", device="cpu")
    assert again.reused
    assert again.path.name == first.name


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ir152", "facenet64"])
def test_the_other_targets_run_too(home: Path, tmp_path: Path, target: str) -> None:
    check(mibench.run(target=target, protocol="smoke", out=tmp_path))


@pytest.mark.slow
def test_every_attack_runs_from_shipped_weights_and_is_compared(home: Path, tmp_path: Path) -> None:
    from mibench.sweeps.suite import load_suite
    from mibench.sweeps.sweep import sweep

    done = sweep(load_suite("smoke"), tmp_path, jobs=2, device="cpu")
    assert not done.failed
    for name in ("sweep.csv", "comparison/comparison.csv", "comparison/comparison.tex"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.gpu
@pytest.mark.parametrize("target", ["vgg16", "ir152", "facenet64"])
def test_the_main_job_runs_on_a_gpu(accelerator: torch.device, home: Path, tmp_path: Path, target: str) -> None:
    check(mibench.run(target=target, protocol="smoke", device=str(accelerator), out=tmp_path))


@pytest.mark.slow
@forking
def test_a_killed_attack_ends_with_the_same_bytes(home: Path, tmp_path: Path) -> None:
    whole = kill_and_finish(tmp_path, home, "run", "--protocol", "smoke", "--device", "cpu", mode="kill-shipped")
    assert {name.partition("/")[2] for name in whole} >= set(MADE)


def test_the_floor_searches_as_its_attack_does() -> None:
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    changed = RunRequest(
        protocol="smoke", settings={"attack": {"pool_size": 64, "truncation": 0.5, "learning_rate": 0.1}}
    )
    floor = make_plan(changed).floor().spec.attack_settings
    assert (floor["pool_size"], floor["truncation"], floor["candidates"]) == (64, 0.5, 4)
    by_preset = make_plan(RunRequest(protocol="smoke", preset="paper")).floor()
    assert by_preset is not None
    assert by_preset.spec.attack_settings["candidates"] == 200
