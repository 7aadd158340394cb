"""What a sweep adds to each cell: starting it, planning it, telling of it, finding that it is complete.

    python benchmarks/overhead.py                          # warm workers of `local`
    python benchmarks/overhead.py --fresh --cells 6
    python benchmarks/overhead.py --executor ray

The cells are the toy world's of `tests/`, a fraction of a second each, by one worker. The overhead of a cell is the
time from its start to that of the next, less the seconds that its run and its floor record for attack, judging and
drawing. The first cell pays for starting the worker and loading torch; the median of the others is what remains warm.
Those times are of the wall, and mean something on a machine that has nothing else to do. What holds on a busy one too
is the time of the processor that one more cell takes, all of it, attack, judging and drawing included: that of a sweep
of N cells less that of one of 2, divided by N - 2 (not with `--executor ray`, whose processes are not the sweep's).
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

TESTS = Path(__file__).parents[1] / "tests"


@click.command(help=__doc__)
@click.option("--cells", default=10, show_default=True, type=click.IntRange(min=3))
@click.option("--executor", default="local", show_default=True)
@click.option("--fresh", is_flag=True, help="A process for each cell.")
def main(cells: int, executor: str, fresh: bool) -> None:
    sys.path.insert(0, str(TESTS))
    from sweeping import PLUG, TOY
    from toyworld.build import write_world

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder / "home")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(PLUG)
        words = ["--device", "cpu", "--jobs", "1", "--threads", "1", "--executor", executor]
        words += [] if fresh else ["--warm"]
        attack = f"{TOY}attacks: [{{attack: toyattack, settings: {{attack: {{steps: 3}}}}}}]\n"
        used = {}
        for count in (2, cells):
            (folder / "overhead.yaml").write_text(f"{attack}seeds: {list(range(count))}\n")
            used[count] = sweep(folder, words, folder / f"out-{count}")
        overheads = measured(folder / f"out-{cells}")
    figures = {
        "cells": cells,
        "first_s": round(overheads[0], 3),
        "median_of_the_others_s": round(statistics.median(overheads[1:]), 3),
        "longest_of_the_others_s": round(max(overheads[1:]), 3),
        "processor_s_of_one_more_cell": None
        if executor != "local"
        else round((used[cells] - used[2]) / (cells - 2), 3),
        "load_of_the_machine": [round(load, 1) for load in os.getloadavg()],
    }
    click.echo(json.dumps(figures, indent=2))


def sweep(folder: Path, words: list[str], out: Path) -> float:
    """Run the suite; seconds of the processor that it and its workers took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "mibench", "sweep", str(folder / "overhead.yaml"), "--output", str(out), *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ
        | {"MIBENCH_HOME": str(folder / "home"), "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(out: Path) -> list[float]:
    """Seconds of each cell but the last, in their order, that are not its run's own."""
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    starts = [(event["time"], event["seed"]) for event in events if event["event"] == "started"]
    work: dict[int, float] = {}
    for path in out.glob("*/run.json"):
        record = json.loads(path.read_text())
        work[record["spec"]["seed"]] = work.get(record["spec"]["seed"], 0.0) + record["seconds"]
    return [later - start - work[seed] for (start, seed), (later, _) in itertools.pairwise(starts)]


if __name__ == "__main__":
    main()
