"""What every stage shares: its arguments, its clock, and a record that is on disk after each finding.

A stage is a script and a process of its own. It writes one JSON file, replaced whole after each finding, so that a
stage which is stopped, or dies with its device, leaves what it had found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mibench.errors import MibenchError

# What a part of a stage may die of without taking the other parts with it; what is not here is a fault of the script.
BREAKDOWNS = (
    MibenchError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)


class Stage:
    """One stage at work.

    Attributes:
        device: where to compute.
        tiny: the smallest sizes that still take every path, for a rehearsal.
        out: folder of the pictures.
        work: folder for whatever else it makes.
    """

    def __init__(self, description: str | None) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--record", type=Path, required=True, help="the JSON file to write")
        parser.add_argument("--out", type=Path, required=True, help="folder for the picture")
        parser.add_argument("--work", type=Path, required=True, help="folder for everything else")
        parser.add_argument("--seconds", type=float, required=True, help="how long this stage may take")
        parser.add_argument("--device", default="cuda")
        parser.add_argument("--tiny", action="store_true")
        options = parser.parse_args()
        self._end = time.monotonic() + options.seconds
        self._record: Path = options.record
        self.found: dict[str, Any] = {}
        self.device = torch.device(options.device)
        self.tiny: bool = options.tiny
        self.out: Path = options.out
        self.work: Path = options.work
        self.work.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until this stage must have ended."""
        return self._end - time.monotonic()

    def record(self, **findings: Any) -> None:
        """Add findings and write all of them down."""
        self.found.update(findings)
        write_json(self._record, self.found)

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Append a row to the list ``name`` and write everything down."""
        self.record(**{name: [*self.found.get(name, []), row]})

    def say(self, text: str) -> None:
        """A line for the log and for whoever watches."""
        sys.stdout.write(f"{text} ({max(self.left(), 0):.0f} s left)\n")
        sys.stdout.flush()

    def picture(self, name: str) -> Path:
        """Where the stage's picture goes."""
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out / f"{name}.png"


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file; a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as a line of a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]
