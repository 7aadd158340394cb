"""Stage c: ``mibench run`` against the three targets, at ``demo`` and at ``standard``: seconds and peak memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figures import draw_main_job
from stage import BREAKDOWNS, Stage, one_line

import mibench
from mibench.api import Estimate
from mibench.results import open_run

TARGETS = ("vgg16", "ir152", "facenet64")


def main() -> None:
    """One run after another, the quick protocol first."""
    stage = Stage(__doc__)
    protocols = ("smoke",) if stage.tiny else ("demo", "standard")
    targets = TARGETS[:1] if stage.tiny else TARGETS
    failures = 0
    for protocol in protocols:
        for target in targets:
            try:
                row = measured(stage, target, protocol)
            except BREAKDOWNS as error:  # the other targets are still worth their time
                failures += 1
                row = {"target": target, "protocol": protocol, "reason": one_line(error)}
            stage.add("runs", row)
            stage.say(line(row))
            draw_main_job(stage.found["runs"], stage.picture("main_job"))
    if failures:
        raise SystemExit(f"{failures} of {len(stage.found['runs'])} runs failed")


def measured(stage: Stage, target: str, protocol: str) -> dict[str, Any]:
    """One run with its floor, from the command's arguments to the last figure."""
    started = time.perf_counter()
    run = mibench.run(target=target, protocol=protocol, device=str(stage.device), out=stage.work / "runs")
    seconds = time.perf_counter() - started
    cost = open_run(run.path).cost()
    return {
        "target": target,
        "protocol": protocol,
        "seconds": round(seconds, 2),
        "attack_seconds": cost["attack"]["seconds"],
        "prepare_seconds": cost["prepare"]["seconds"],
        "peak_memory_bytes": cost["attack"]["peak_memory_bytes"],
        "acc1": shown(run.metrics["acc1"]),
        "floor_acc1": None if run.floor is None else shown(run.floor.metrics["acc1"]),
        "knn_distance": shown(run.metrics["knn_distance"]),
    }


def shown(metric: Estimate) -> dict[str, Any]:
    """Value and interval of a metric."""
    return {name: getattr(metric, name) for name in ("value", "low", "high", "n")}


def line(row: dict[str, Any]) -> str:
    """A run in words."""
    if "reason" in row:
        return f"{row['target']} at {row['protocol']}: {row['reason']}"
    return (
        f"{row['target']} at {row['protocol']}: {row['seconds']:.1f} s (attack {row['attack_seconds']:.1f} s), "
        f"{row['peak_memory_bytes'] / 1e9:.2f} GB, acc@1 {row['acc1']['value']:.1%}"
    )


if __name__ == "__main__":
    main()
