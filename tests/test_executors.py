"""Executors of a sweep: units of work as JSON, workers on devices, cells that need the same floor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mibench.runs.request import RunRequest
from mibench.runs.store import RunDir
from mibench.sweeps import sweep
from mibench.sweeps.executors import local
from mibench.sweeps.executors.contract import Job


def test_workers_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep.worker_devices("cpu", None) == ("cpu",)
    assert sweep.worker_devices("cpu", 2) == ("cpu", "cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [sweep.threads_each(jobs) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert sweep.worker_devices("auto", None) == ("cuda:0", "cuda:1")
    assert sweep.worker_devices("cuda", 3) == ("cuda:0", "cuda:1", "cuda:0")
    assert sweep.worker_devices("cuda:1", None) == ("cuda:1",)


def test_cells_never_wait_for_a_floor_that_another_one_makes(tmp_path: Path) -> None:
    first, second, third = (
        Job(index=index, request=RunRequest(), makes=frozenset(names))
        for index, names in enumerate([{"floor-a", "one"}, {"floor-a", "two"}, {"floor-b", "three"}])
    )
    running: Any = [SimpleNamespace(job=first)]
    assert local._next([second, third], running, tmp_path) is third
    assert local._next([second], running, tmp_path) is None
    (tmp_path / "floor-a").mkdir()
    RunDir(tmp_path / "floor-a").update_record(status="complete")
    assert local._next([second, third], running, tmp_path) is second


def test_a_job_is_the_same_after_its_way_as_json() -> None:
    settings = {
        "protocol": {"samples": 2, "access": "scores"},
        "attack": {"betas": [0.5, 0.9], "psi": None, "lr": 1e-3},
    }
    request = RunRequest(
        attack="dmmia", seed=0, min_accuracy=0.5, settings=settings, config=Path("a folder/config.yaml")
    )
    job = Job(index=3, request=request, makes=frozenset({"floor-a", "dmmia-a"}))
    again = Job.from_json(job.as_json())
    assert again == job
    assert list(again.request.settings) == ["protocol", "attack"], "config.yaml keeps the order"
    assert Job.from_json(Job(index=0, request=RunRequest()).as_json()).request == RunRequest()
