"""Sweeps of the toy world, in worker processes and on clusters too, and what is in their folders."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from nursery import start
from test_resume import results

HERE = Path(__file__).parent
PLUG = f"""
import sys
from importlib.metadata import EntryPoint
sys.path.insert(0, {str(HERE)!r})
from mibench import registry
POINTS = tuple(EntryPoint(name, value, registry.GROUP) for name, value in (
    ("harness", "mibench.catalogue:CATALOGUE"), ("toy", "toyworld:CATALOGUE")))
registry.entry_points = lambda *, group: POINTS if group == registry.GROUP else ()
"""
TOY = "protocol: toy\ndataset: toyfaces\ntargets: [toynet]\n"


@pytest.fixture
def workers(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world, in worker processes too: Python runs ``sitecustomize`` whenever it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PLUG)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return toy


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def table(out: Path) -> list[dict[str, str]]:
    with (out / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def runs(out: Path) -> dict[str, dict[str, bytes]]:
    return {path.parent.name: results(path.parent) for path in sorted(out.glob("*/run.json"))}


def stamps(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.glob("*/**/*") if path.is_file()}


def sweeping(suite: Path, out: Path, home: Path) -> subprocess.Popen[str]:
    return start("sweep", suite, "--output", out, "--device", "cpu", home=home)


def wait_for(process: subprocess.Popen[str], out: Path, file: str) -> int:
    """Wait until a run of the sweep has stored a file; gives the worker's process number."""
    deadline = time.monotonic() + 300
    while not list(out.glob(f"toyattack-*/{file}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(json.loads(next(out.glob("toyattack-*/run.json")).read_text())["pid"])


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
