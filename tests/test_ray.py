"""The executor ray: what a cluster must have, files for workers elsewhere, the same bytes; kills lose nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sweeping import TOY, runs, write

from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.sweeps.executors import ray_cluster
from mibench.sweeps.executors.contract import ExecutorOptions
from mibench.sweeps.executors.ray_resources import Need, refuse_what_cannot_start, room_of
from mibench.sweeps.executors.storage import Changes, digest_of, packed, unpack

ROOT = Path(__file__).parents[1]
SUITE = TOY + "attacks: [floor, {attack: toyattack, settings: {attack: {steps: 3, unit_size: 1}}}]\nseeds: [0, 1]\n"


def node(cpus: float, gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


def test_room_is_counted_node_by_node() -> None:
    nodes = [node(4), node(3), node(64, alive=False)]
    assert [room_of(nodes, Need(cpus=cpus)) for cpus in (1, 2, 3, 4, 5)] == [7, 3, 2, 1, 0]
    mixed = [node(16, 2), node(16)]
    assert room_of(mixed, Need(cpus=1, gpus=1)) == 2
    assert room_of(mixed, Need(cpus=1, gpus=0.3333)) == 6
    assert room_of([node(1, 8)], Need(cpus=1, gpus=1)) == 1


@pytest.mark.parametrize(
    ("device", "jobs", "gpus"), [("auto", None, 1.0), ("cuda", 4, 1.0), ("auto", 12, 0.3333), ("cpu", 4, 0.0)]
)
def test_workers_share_the_gpus_of_a_cluster(device: str, jobs: int | None, gpus: float) -> None:
    need = Need(cpus=2).on([node(8, 2), node(8, 2), node(8)], ExecutorOptions(device=device, jobs=jobs))
    assert (need.cpus, need.gpus, need.device) == (2, gpus, "cuda" if gpus else "cpu")


def test_a_cluster_without_gpus_computes_on_cpus_unless_told_otherwise() -> None:
    assert Need(cpus=1).on([node(8)], ExecutorOptions()).gpus == 0
    with pytest.raises(MibenchError, match="no node of the Ray cluster has a GPU; use --device cpu"):
        Need(cpus=1).on([node(8)], ExecutorOptions(device="cuda"))


def test_what_can_never_start_is_refused_before_it_is_submitted() -> None:
    nodes = [node(4), node(2)]
    refuse_what_cannot_start(nodes, Need(cpus=2), 3)
    with pytest.raises(MibenchError, match=r"4 workers with 2 CPU each .* has room for 3; choose --jobs 3 or fewer"):
        refuse_what_cannot_start(nodes, Need(cpus=2), 4)
    with pytest.raises(MibenchError, match=r"a worker needs 8 CPU, and no node .*the largest has 4 CPU"):
        refuse_what_cannot_start(nodes, Need(cpus=8), None)


def test_without_ray_one_line_says_what_to_install(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    suite = write(tmp_path, SUITE)
    done = CliRunner().invoke(cli, ["sweep", str(suite), "--output", str(tmp_path / "out"), "--executor", "ray"])
    assert done.exit_code == 2
    assert done.stderr == "error: the executor ray needs Ray, which is not installed; pip install 'mibench[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_an_unknown_executor_is_one_line(toy: Path, tmp_path: Path) -> None:
    suite = write(tmp_path, SUITE)
    done = CliRunner().invoke(cli, ["sweep", str(suite), "--output", str(tmp_path / "out"), "--executor", "rai"])
    assert done.exit_code == 2
    assert "unknown executor 'rai'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_files_go_and_come_back_whole(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "run" / "units").mkdir(parents=True)
    (here / "other").mkdir()
    for name in ("run/run.json", "run/units/000.json", "run/units/000.safetensors", "run/.lock", "other/run.json"):
        (here / name).write_text(name)
    files = packed(here, ["run", "absent"])
    assert sorted(files) == ["run/run.json", "run/units/000.json", "run/units/000.safetensors"]
    unpack(files, there)
    assert packed(there, ["run"]) == files
    assert digest_of(files) == digest_of(dict(reversed(files.items())))
    assert digest_of(files) != digest_of({**files, "run/run.json": b""})


def test_what_vouches_for_a_file_is_written_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("mibench.sweeps.executors.storage.atomic_write", lambda path, content: order.append(path.name))
    unpack(dict.fromkeys(("run/run.json", "run/units/0.json", "run/units/0.safetensors"), b""), tmp_path)
    assert order == ["0.safetensors", "0.json", "run.json"]


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "run/../../escaped"])
def test_files_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MibenchError, match="leads out of the folder of the sweep"):
        unpack({name: b""}, tmp_path / "out")
    assert not list(tmp_path.rglob("escaped"))


def test_only_what_has_changed_is_sent(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    changes = Changes(tmp_path, ("run", "logs/run.log"))
    assert list(changes.taken()) == ["run/run.json"]
    assert changes.taken() == {}
    (tmp_path / "run" / "run.json").write_text("[1]")
    (tmp_path / "run" / "new").write_text("")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run.log").write_text("oh")
    assert sorted(changes.taken()) == ["logs/run.log", "run/new", "run/run.json"]


def sweep(suite: Path, out: Path, *words: object) -> dict[str, dict[str, bytes]]:
    command = ["sweep", suite, "--output", out, "--device", "cpu", "--threads", 1, *words]
    done = CliRunner().invoke(cli, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    return runs(out)


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(workers: Path, tmp_path: Path) -> None:
    suite = write(tmp_path, SUITE)
    one = sweep(suite, tmp_path / "one", "--jobs", 1)
    assert sum(name.endswith(".safetensors") for files in one.values() for name in files) > 12
    for jobs in (2, 4):
        assert sweep(suite, tmp_path / f"{jobs}", "--jobs", jobs, "--warm") == one


@pytest.mark.slow
def test_ray_gives_the_bytes_of_local(workers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    suite = write(tmp_path, SUITE)
    local = sweep(suite, tmp_path / "local", "--jobs", 1, "--warm")
    assert sweep(suite, tmp_path / "ray", "--executor", "ray", "--jobs", 2) == local
    # begun by one, finished by another: a unit is lost meanwhile
    next((tmp_path / "ray").glob("toyattack-*/units/001.safetensors")).unlink()
    next((tmp_path / "ray").glob("toyattack-*/metrics.json")).unlink()
    assert sweep(suite, tmp_path / "ray", "--jobs", 1) == local
    # workers that do not see the folder of the sweep get files, and send files
    monkeypatch.setattr(ray_cluster, "_token", lambda out: contextlib.nullcontext("absent"))
    assert sweep(suite, tmp_path / "apart", "--executor", "ray", "--jobs", 2, "--warm") == local


@pytest.mark.slow
def test_kills_of_workers_nodes_and_sweeps_lose_and_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "8", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["kills"] == 8
    assert figures["faults"] == []
