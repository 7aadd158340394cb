"""A report of the toy world, and a metric of somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mibench.api import Estimate
from mibench.metrics.inputs import ScoringInputs
from mibench.results import StoredRun


def write_report(
    run: StoredRun, folder: Path | None = None, *, floor: StoredRun | None = None, private: Any = None
) -> list[Path]:
    """One line per run."""
    folder = folder or run.path / "tables"
    folder.mkdir(exist_ok=True)
    lines = [f"{one.attack},{one.metrics['acc1'].value}" for one in (run, floor) if one is not None]
    path = folder / "toy.csv"
    path.write_text("\n".join([*lines, f"private,{len(private)}"]) + "\n")
    return [path]


def measure_theirs(evidence: ScoringInputs) -> list[Estimate]:
    """their_confidence: what the judge is sure of."""
    return [evidence.mean("their_confidence", "judge_confidence", higher_is_better=True)]
