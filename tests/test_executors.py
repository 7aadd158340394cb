"""Executors of a sweep: units of work as JSON, workers on devices, cells that need the same floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mibench.errors import MibenchError
from mibench.runs.request import RunRequest
from mibench.runs.store import RunDir
from mibench.sweeps.executors import local
from mibench.sweeps.executors.contract import Death, ExecutorOptions, Job
from mibench.sweeps.executors.queue import JobQueue


def test_workers_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local.worker_devices("cpu", None) == ("cpu",)
    assert local.worker_devices("cpu", 2) == ("cpu", "cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [local.threads_each(jobs) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local.worker_devices("auto", None) == ("cuda:0", "cuda:1")
    assert local.worker_devices("cuda", 3) == ("cuda:0", "cuda:1", "cuda:0")
    assert local.worker_devices("cuda:1", None) == ("cuda:1",)


def test_cells_never_wait_for_a_floor_that_another_one_makes(tmp_path: Path) -> None:
    first, second, third = (
        Job(index=index, request=RunRequest(), makes=frozenset(names))
        for index, names in enumerate([{"floor-a", "one"}, {"floor-a", "two"}, {"floor-b", "three"}])
    )
    assert JobQueue([second, third], tmp_path, 0).take([first]) is third
    assert JobQueue([second], tmp_path, 0).take([first]) is None
    (tmp_path / "floor-a").mkdir()
    RunDir(tmp_path / "floor-a").update_record(status="complete")
    assert JobQueue([second, third], tmp_path, 0).take([first]) is second


def test_a_job_whose_worker_died_waits_again_and_before_all_others(tmp_path: Path) -> None:
    first, second = (Job(index=index, request=RunRequest()) for index in range(2))
    queue = JobQueue([first, second], tmp_path, retries=1)
    taken = queue.take([])
    assert taken is first
    event = queue.buried(first, Death(reason="killed", micro_batch=64), 1.0)
    assert (event.kind, event.text) == ("message", "killed; another worker continues (retry 1 of 1)")
    again = queue.take([])
    assert again == first, "as many images at a time: memory was not full"
    event = queue.buried(first, Death(reason="killed"), 1.0)
    assert (event.kind, event.text) == ("failed", "killed (worker 2 of 2 that died)")
    assert queue.take([]) is second
    assert queue.buried(second, Death(reason="too long", retry=False), 1.0).kind == "failed"
    assert len(queue) == 0


def test_where_memory_was_full_the_next_worker_takes_half_the_images(tmp_path: Path) -> None:
    queue = JobQueue([Job(index=0, request=RunRequest())], tmp_path, retries=9)
    sizes = []
    for micro_batch in (8, 1, None):
        job = queue.take([])
        assert job is not None
        event = queue.buried(job, Death(reason="killed", out_of_memory=True, micro_batch=micro_batch), 1.0)
        sizes.append((queue.take([]) or job).micro_batch)
        queue = JobQueue([job], tmp_path, retries=9)
        assert ("with 4 images at a time" in event.text) == (micro_batch == 8)
    assert sizes == [4, None, None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"timeout": 0.0}, "timeout must be a number of seconds above 0, got 0.0"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds above 0, got nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        ExecutorOptions(**wrong)


def test_local_has_no_address(tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="an address is of a cluster"):
        local.LocalExecutor.create(tmp_path, ExecutorOptions(address="auto"))


def test_a_job_is_the_same_after_its_way_as_json() -> None:
    settings = {
        "protocol": {"samples": 2, "access": "scores"},
        "attack": {"betas": [0.5, 0.9], "psi": None, "lr": 1e-3},
    }
    request = RunRequest(
        attack="dmmia", seed=0, min_accuracy=0.5, settings=settings, config=Path("a folder/config.yaml")
    )
    job = Job(index=3, request=request, name="dmmia-a", makes=frozenset({"floor-a", "dmmia-a"}), units=(1, 4))
    again = Job.from_json(job.as_json())
    assert again == job
    assert list(again.request.settings) == ["protocol", "attack"], "config.yaml keeps the order"
    assert Job.from_json(Job(index=0, request=RunRequest()).as_json()).request == RunRequest()
