"""Two thousand damaged files of weights, of every container: weights or a line, in bounded time and memory; no deed."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import mutations
import pytest

EACH = 223  # times nine containers: 2,007 files
MOST_MEMORY = 2e9  # bytes
LONGEST = 20  # seconds for one file


def read_by_a_child(folder: Path) -> list[dict[str, Any]]:
    """What came of each file, read by one process; a file that ends it is the last."""
    command = [sys.executable, mutations.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    files, answers = lines[::2], lines[1::2]
    assert done.returncode == 0, f"{files[-1:]} ended the process ({done.returncode}): {done.stderr[-500:]}"
    return [file | answer for file, answer in zip(files, answers, strict=True)]


def written(container: str, folder: Path, count: int) -> Path:
    if container == "onnx" and importlib.util.find_spec("onnx") is None:
        pytest.skip("onnx is an extra")
    place = folder / container
    place.mkdir()
    suffix = {"onnx": ".onnx", "safetensors": ".safetensors", "torchscript": ".pt"}.get(container, ".pth")
    for number, content in enumerate(mutations.mutated(container, count)):
        (place / f"{number:04}{suffix}").write_bytes(content)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("container", mutations.CONTAINERS)
def test_damaged_files_are_a_line_or_weights(container: str, tmp_path: Path) -> None:
    found = read_by_a_child(written(container, tmp_path, EACH))
    assert len(found) == EACH
    odd = [one for one in found if one["answer"] not in ("read", "refused")]
    assert not odd, odd[:3]
    assert max(one["seconds"] for one in found) < LONGEST
    assert max(one["memory"] for one in found) < MOST_MEMORY
    assert not any(one["did"] for one in found)
    assert not list(tmp_path.rglob(mutations.MARKER))
    assert {one["answer"] for one in found} >= {"refused"}


def test_the_files_are_the_same_each_time() -> None:
    first, again = (list(mutations.mutated("zip", 20)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 20


def test_a_deed_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(mutations.Evil()))
    assert (tmp_path / mutations.MARKER).exists()
