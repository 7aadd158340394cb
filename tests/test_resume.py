"""A run that is killed at random moments, ten times, and then finished has the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from nursery import start

COMMAND = (
    "run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy",
    "--device", "cpu", "--set", "attack.unit_size=1", "--set", "attack.steps=60",
)  # fmt: skip
TIMES = 10
LONGEST = 0.6  # seconds; a whole run takes about one


def results(folder: Path) -> dict[str, bytes]:
    """Everything but the files that record times, machines and processes."""
    unstable = {"run.json", "log.jsonl", ".lock", "state.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in unstable and not (path.parent.name == "units" and path.suffix == ".json")
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(sys.platform == "darwin", reason="forking after importing torch is not safe there")
def test_ten_kills_leave_no_trace(toy_home: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    delays = [random.Random(f"{seed} {number}").uniform(0.01, LONGEST) for number in range(TIMES)]
    whole = start(*COMMAND, "--output", tmp_path / "whole", home=toy_home)
    killed = start(
        ",".join(f"{delay:.3f}" for delay in delays),
        *COMMAND,
        "--output",
        tmp_path / "killed",
        home=toy_home,
        mode="kill",
    )
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors
    output, errors = killed.communicate(timeout=120)
    hint = f"seed {seed}, delays {delays}: {output} {errors}"
    assert "last exit 0" in output, hint
    assert int(output.rpartition("killed ")[2].split(",")[0]) >= 1, hint

    expected, found = results(tmp_path / "whole"), results(tmp_path / "killed")
    assert sum(name.endswith(".safetensors") for name in expected) == 6 + 1 + 1 + 1, sorted(expected)
    assert sorted(found) == sorted(expected), hint
    assert [name for name in expected if found[name] != expected[name]] == [], hint
