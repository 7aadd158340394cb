"""What waiting threads cost: `mibench run` alone and beside a busy process, under several ways to wait.

    python benchmarks/waiting.py                              # three variants, two repetitions, about 15 minutes
    python benchmarks/waiting.py --variants here,default --repetitions 1
    python benchmarks/waiting.py --variants here,spins=100,spins=3000,passive,one

Variants: `here` is what the program does by itself, `default` is OpenMP's own way (it spins), `passive` never spins,
`spins=N` looks N times, `one` has one thread. They take turns, so that their ratios hold on a machine whose speed
drifts. Seconds of the processor are those of the run and its children. The busy process is one endless loop, on the
same processors. A run is complete: attack, floor, judge, tables and figures.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
GNU_DEFAULT = "300000"  # what libgomp takes when nothing is said; said here so that the program leaves it alone


@click.command(help=__doc__)
@click.option("--variants", default="here,default,passive", show_default=True)
@click.option("--repetitions", default=2, show_default=True)
@click.option("--protocol", default="demo", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(variants: str, repetitions: int, protocol: str, out: Path | None) -> None:
    names = variants.split(",")
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for repetition in range(repetitions):
        for name in names if repetition % 2 else list(reversed(names)):
            for company in ("alone", "busy"):
                with busy_process() if company == "busy" else nobody():
                    seconds.setdefault((name, company), []).append(one_run(environment(name), protocol))
                click.echo(f"{name} {company}: %.1f s, %.1f s of the processor" % seconds[name, company][-1], err=True)
    rows = [row(name, seconds) for name in names]
    click.echo(json.dumps(rows, indent=2))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def environment(variant: str) -> dict[str, str]:
    """The surroundings of a run that waits in one way."""
    plain = {name: value for name, value in os.environ.items() if name not in WAITING}
    way, _, count = variant.partition("=")
    known = {
        "here": {},
        "default": {"GOMP_SPINCOUNT": GNU_DEFAULT},
        "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
        "spins": {"GOMP_SPINCOUNT": count},
        "one": {"OMP_NUM_THREADS": "1"},
    }
    if way not in known:
        raise click.BadParameter(f"no variant {variant!r}; there are {', '.join(known)}")
    return plain | known[way]


def one_run(surroundings: dict[str, str], protocol: str) -> tuple[float, float]:
    """Seconds of the wall and of the processor that one `mibench run` takes."""
    with tempfile.TemporaryDirectory() as folder:
        before, started = used(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mibench", "run", "--device", "cpu", "--protocol", protocol, "--output", folder],
            check=True,
            env=surroundings | {"MIBENCH_HOME": f"{folder}/home"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - started, used() - before


def used() -> float:
    """Processor seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def busy_process() -> Iterator[None]:
    """An endless loop beside what is measured; killed and not waited for before `used` is read."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def nobody() -> Iterator[None]:
    yield


def row(name: str, seconds: dict[tuple[str, str], list[tuple[float, float]]]) -> dict[str, object]:
    """Medians of a variant."""
    found: dict[str, object] = {"variant": name, "cpus": len(os.sched_getaffinity(0))}
    for company in ("alone", "busy"):
        for place, what in enumerate(("seconds", "processor_seconds")):
            found[f"{company}_{what}"] = round(statistics.median(pair[place] for pair in seconds[name, company]), 1)
    return found


if __name__ == "__main__":
    main()
