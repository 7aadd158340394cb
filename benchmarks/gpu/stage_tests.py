"""Stage b: the tests marked ``gpu``. On a CPU they are rehearsed there, apart from what only a GPU can be asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bare import CHECKOUT
from pytest_lines import FILE
from stage import Stage

SHORT = "limit or computes_what or micro_batch"  # a rehearsal's selection


def main() -> None:
    """Run pytest in a process of its own and follow its report."""
    stage = Stage(__doc__)
    report = stage.work / "report.jsonl"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "pytest_lines", "-p", "no:cacheprovider", "-q"]
    command += ["--no-header", "--basetemp", str(stage.work / "pytest"), *(["-k", SHORT] if stage.tiny else [])]
    command += ["--continue-on-collection-errors", "tests"]
    for path in sorted((CHECKOUT / "tests").glob("test_*.py")):  # collecting them all takes longer than some stages
        command += [] if "mark.gpu" in path.read_text("utf-8") else ["--ignore", f"tests/{path.name}"]
    here = str(Path(__file__).resolve().parent)
    surroundings = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "MIBENCH_TEST_ACCELERATOR": stage.device.type,
        FILE: str(report),
    }
    process = subprocess.Popen(command, cwd=CHECKOUT, env=surroundings)
    while process.poll() is None and stage.left() > 0:
        time.sleep(0.5)
        record(stage, report)
    if process.poll() is None:
        process.kill()
        process.wait()
        stage.record(stopped=True)
    record(stage, report)
    counts = stage.found["counts"]
    stage.say(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no test ran")
    if counts.get("failed") or not counts.get("passed"):
        first = next((row for row in stage.found["tests"] if row["outcome"] == "failed"), {})
        raise SystemExit(f"{counts.get('failed', 0)} failed, {counts.get('passed', 0)} passed {first.get('test', '')}")


def record(stage: Stage, report: Path) -> None:
    """What is known so far."""
    rows = rows_of(report)
    if rows != stage.found.get("tests"):
        stage.record(counts=dict(Counter(row["outcome"] for row in rows)), tests=rows)
    elif not rows:
        stage.record(counts={}, tests=[])


def rows_of(report: Path) -> list[dict[str, Any]]:
    """Whole lines of a report."""
    if not report.exists():
        return []
    return [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


if __name__ == "__main__":
    main()
