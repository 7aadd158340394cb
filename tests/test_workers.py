"""Worker processes of sweeps and runs: units side by side, workers that die, hang or stay warm, executors of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from sweeping import TOY, runs, table, write
from test_resume import results
from toyworld.attacks import KILLED_AT, ONCE

import mibench
from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.runs.attack import Execution
from mibench.runs.parts import RunPart, attack_part
from mibench.runs.plan import Plan
from mibench.runs.request import RunRequest
from mibench.runs.run import run_request
from mibench.runs.store import RunDir
from mibench.system import memory_kills

REQUEST = RunRequest(
    attack="toyattack",
    target="toynet",
    dataset="toyfaces",
    protocol="toy",
    settings={"attack": {"steps": 3, "unit_size": 1}},
)
INLINE = '''
from mibench.runs.attack import Execution
from mibench.runs.run import run_request
from mibench.sweeps.executors.contract import Event
from mibench.system.devices import choose_device

CATALOGUE = {"executor": {"inline": "inline:Inline"}}


class Inline:
    """Cells one after another, in the process of the sweep."""

    devices = ("cpu",)

    def __init__(self, out):
        self.out = out

    @classmethod
    def create(cls, out, options):
        return cls(out)

    def run(self, jobs):
        for job in jobs:
            yield Event(index=job.index, kind="started")
            run_request(type(job).from_json(job.as_json()).request, self.out, Execution(choose_device("cpu")))
            yield Event(index=job.index, kind="complete")
'''


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def machine() -> Execution:
    return Execution(torch.device("cpu"))


def test_units_that_others_attack_have_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "out", list[tuple[int, ...]]()

    def elsewhere(plan: Plan, units: tuple[int, ...]) -> None:
        given.append(units)
        for share in (units[1::2], units[4:5]):  # one has been attacked already, two are left undone
            attack_part(REQUEST, out, share, machine())

    alone = run_request(REQUEST, tmp_path / "alone", machine())
    helped = run_request(REQUEST, out, machine(), elsewhere=elsewhere)
    assert given == [(0, 1, 2, 3, 4, 5)]
    assert results(helped.path) == results(alone.path)
    stored = [json.loads(line) for line in (helped.path / "log.jsonl").read_text().splitlines()]
    assert sorted(line["unit"] for line in stored if line.get("event") == "unit") == [0, 1, 2, 3, 4, 5], "each once"
    assert run_request(REQUEST, out, machine(), elsewhere=elsewhere).reused
    assert len(given) == 1, "of a complete run there is nothing to give away"


def test_a_part_needs_a_run_that_has_begun(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="has no stored preparation; start it with mibench run"):
        attack_part(REQUEST, tmp_path, (0,), machine())


def test_a_part_sees_only_its_own_units_as_missing(tmp_path: Path) -> None:
    part = RunPart(tmp_path, frozenset({1}))
    assert [part.intact(f"units/{number:03d}") for number in range(3)] == [True, False, True]
    assert not part.intact("state")
    assert not RunDir(tmp_path).intact("units/000")


def test_an_executor_of_somebody_else(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_PLUGINS", "")
    plugin = tmp_path / "inline.py"
    plugin.write_text(INLINE)
    suite = write(tmp_path, TOY + "attacks: [{attack: toyattack, settings: {attack: {steps: 3}}}]\nseeds: [0, 1]\n")
    out = tmp_path / "out"
    done = call("sweep", suite, "--output", out, "--executor", "inline", "--plugin", plugin)
    assert done.exit_code == 0, done.output
    assert [row["status"] for row in table(out)] == ["complete", "complete"]
    run = mibench.run(
        "toyattack", "toynet", "toyfaces", "toy", settings={"attack.steps": 3}, out=tmp_path / "alone", device="cpu"
    )
    assert runs(out)[run.path.name] == results(run.path)


@pytest.mark.parametrize(
    ("contents", "count"),
    [(["low 0\noom 3\noom_kill 2\noom_group_kill 0\n"], 2), ([None, "nr_dirty 1\noom_kill 7\n"], 7), (["x"], None)],
)
def test_kills_for_memory_are_read_where_the_system_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: list[str | None], count: int | None
) -> None:
    files = tuple(tmp_path / f"counter{number}" for number in range(len(contents)))
    for file, content in zip(files, contents, strict=True):
        if content is not None:
            file.write_text(content)
    monkeypatch.setattr(memory_kills, "COUNTERS", files)
    assert memory_kills.memory_kills() == count


@pytest.mark.slow
def test_run_with_jobs_gives_the_same_bytes(workers: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"settings": {"attack.steps": 3, "attack.unit_size": 1}, "device": "cpu"}
    alone = mibench.run("toyattack", "toynet", "toyfaces", "toy", out=tmp_path / "alone", **arguments)
    for jobs in (2, 3):
        run = mibench.run("toyattack", "toynet", "toyfaces", "toy", out=tmp_path / f"{jobs}", jobs=jobs, **arguments)
        assert results(run.path) == results(alone.path)
        record = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        assert sum(line.get("event") == "unit" for line in record) == 6
    with pytest.raises(MibenchError, match="jobs must be at least 1, got 0"):
        mibench.run("toyattack", "toynet", "toyfaces", "toy", out=tmp_path / "none", jobs=0, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--warm",)])
def test_a_worker_that_is_killed_once_is_replaced(
    workers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    attack = "attacks: [{attack: toyattack, settings: {attack: {steps: 3, unit_size: 1}}}]\nseeds: [0, 1]\n"
    suite, out = write(tmp_path, TOY + attack), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setenv(KILLED_AT, "3")
        patch.setenv(ONCE, str(tmp_path / "killed"))
        done = call("sweep", suite, "--output", out, "--device", "cpu", *words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "killed").exists()
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    retries = [event["text"] for event in events if "another worker continues" in event.get("text", "")]
    assert len(retries) == 1
    assert retries[0].startswith("the worker process was killed by SIGKILL")
    assert not (out / "logs").exists(), "nobody had anything to print"
    call("sweep", suite, "--output", tmp_path / "whole", "--device", "cpu", "--warm")
    assert runs(out) == runs(tmp_path / "whole")


@pytest.mark.slow
def test_a_cell_that_takes_too_long_is_ended(workers: Path, tmp_path: Path) -> None:
    suite = write(tmp_path, TOY + "attacks: [{attack: toyattack, settings: {attack: {steps: 100000000}}}]\n")
    done = call("sweep", suite, "--output", tmp_path / "out", "--device", "cpu", "--timeout", 3)
    assert done.exit_code == 1
    assert "failed: it took longer than 3 s (--timeout); what it finished is kept" in done.stderr


@pytest.mark.slow
def test_a_script_that_sweeps_is_not_run_again_in_its_workers(workers: Path, tmp_path: Path) -> None:
    suite = write(tmp_path, TOY + "attacks: [{attack: toyattack, settings: {attack: {steps: 3}}}]\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import mibench\nprint('once')\n"
        f"print(mibench.sweep({str(suite)!r}, {str(tmp_path / 'out')!r}, device='cpu').failed)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout == "once\n()\n", done.stderr
