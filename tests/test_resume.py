"""A run that is killed at random moments, several times, and then finished has the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path

import pytest
from nursery import start

COMMAND = (
    "run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy",
    "--device", "cpu", "--set", "attack.unit_size=1", "--set", "attack.steps=20",
)  # fmt: skip
LONGEST = 0.4  # of a whole run: so the first child, at least, is killed, and ten get through a run step by step

forking = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="forking after importing torch is not safe there"
)


def results(folder: Path) -> dict[str, bytes]:
    """Everything but the files that record times, machines and processes."""
    unstable = {"run.json", "log.jsonl", ".lock", "state.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in unstable and not (path.parent.name == "units" and path.suffix == ".json")
    }


def kill_and_finish(folder: Path, home: Path, *command: str, mode: str, times: int = 10) -> dict[str, bytes]:
    """Results of an uninterrupted run, which those of one that was killed at random moments, so many times, equal."""
    seed = random.SystemRandom().randrange(1 << 30)
    shares = [random.Random(f"{seed} {number}").uniform(0, LONGEST) for number in range(times)]
    said = ",".join(f"{share:.6f}" for share in shares)
    process = start(said, folder / "whole", folder / "killed", *command, home=home, mode=mode)
    output, errors = process.communicate(timeout=3600)
    hint = f"seed {seed}, shares {said}: {output} {errors}"
    found = re.search(rf"(\d+) of {times} killed, \d+ calls, exit codes \[0, 0\]", output)
    assert found is not None, hint
    assert int(found[1]) >= 1, hint
    whole, killed = results(folder / "whole"), results(folder / "killed")
    assert sorted(killed) == sorted(whole), hint
    assert [name for name in whole if killed[name] != whole[name]] == [], hint
    return whole


@forking
@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_leave_no_trace(toy_home: Path, tmp_path: Path, times: int) -> None:
    whole = kill_and_finish(tmp_path, toy_home, *COMMAND, mode="kill", times=times)
    assert sum(name.endswith(".safetensors") for name in whole) == 6 + 1 + 1 + 1, sorted(whole)
    # a process of its own, not forked and not watched, comes to the same bytes
    alone = start(*COMMAND, "--output", tmp_path / "alone", home=toy_home)
    _, errors = alone.communicate(timeout=3600)
    assert alone.returncode == 0, errors
    assert results(tmp_path / "alone") == whole
