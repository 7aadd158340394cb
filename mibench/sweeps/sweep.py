"""A sweep from beginning to end: which cells are complete, run the others, one table out.

Files of the output folder, beside the run directories::

    sweep.json          each cell: status, reason, run directory, seconds; replaced whenever a cell ends
    sweep.csv sweep.md  the table, failed cells included
    comparison/         the complete cells side by side, seeds pooled, as `mibench compare` does it
    log.jsonl           one record a line, with the time
    logs/               what workers print, a file for each run that printed anything
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import torch

from mibench import registry
from mibench.errors import MibenchError
from mibench.results import StoredRun
from mibench.sweeps.status import FAILED, Outcome
from mibench.system.canonical import JsonObject
from mibench.system.files import write_error, write_json
from mibench.system.progress import Reporter
from mibench.system.text_files import read_object, shown
from mibench.system.work_directory import WorkDirectory

from . import estimate, tables
from .compared import check_compared
from .executors.contract import Event, Executor, ExecutorOptions, Job
from .executors.local import threads_each, worker_devices
from .status import CellStatus, cell_statuses, demands, finished, progress
from .suite import Suite

SCHEMA = 1
STATE = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep that has ended.

    Attributes:
        path: the output folder.
        outcomes: one for each cell, in the order of the suite.
        written: the tables.
    """

    suite: Suite
    path: Path
    outcomes: tuple[Outcome, ...]
    written: tables.Written

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Cells that failed or could not start."""
        return tuple(outcome for outcome in self.outcomes if outcome.status in FAILED)


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a sweep would do.

    Attributes:
        cell_statuses: of each cell, in the order of the suite.
        last_time: the reason of each cell's last failure, or None.
        jobs, threads: workers side by side, and PyTorch's threads in each.
    """

    suite: Suite
    path: Path
    cell_statuses: tuple[CellStatus, ...]
    last_time: tuple[str | None, ...]
    cost_estimate: estimate.CostEstimate
    jobs: int
    threads: int


def forecast(suite: Suite, out: Path, options: ExecutorOptions | None = None) -> DryRun:
    """Which cells are complete, which are left, and their cost with workers of this machine's speed.

    Times a few images; writes and starts nothing.
    """
    check_compared(suite)
    options = options or ExecutorOptions()
    devices = worker_devices(options.device, options.jobs)
    threads = options.threads or threads_each(len(devices))
    statuses = cell_statuses(suite.cells, out, allow_changed_code=options.allow_changed_code)
    before = _remembered(suite, out)
    with _threads(threads):
        cost_estimate = estimate.cost_estimate(statuses, out, torch.device(devices[0]), len(devices))
    reasons = [(before.get(_key(one)) or {}).get("reason") or None for one in statuses]
    return DryRun(
        suite=suite,
        path=out,
        cell_statuses=tuple(statuses),
        last_time=tuple(reasons),
        cost_estimate=cost_estimate,
        jobs=len(devices),
        threads=threads,
    )


def sweep(
    suite: Suite,
    out: Path,
    options: ExecutorOptions | None = None,
    *,
    executor: str = "local",
    reporter: Reporter | None = None,
) -> Sweep:
    """Run every cell that is not complete, each in a worker process, and write the table.

    A cell that fails does not stop the others, and is tried again the next time, by whichever executor.

    Args:
        suite: from :func:`mibench.sweeps.suite.load_suite`.
        out: folder of the run directories and of the table.
        options: how many workers, on what, and what becomes of one that dies; None: those of the executor.
        executor: the registered one that runs cells: ``local``, ``ray``.
        reporter: hears about progress; silent by default.

    Raises:
        MibenchError: the folder belongs to another suite or sweep, or cannot be written; no such executor, or it has
            no worker for a cell.
    """
    check_compared(suite)
    options = options or ExecutorOptions()
    kind: type[Executor] = registry.load("executor", executor)
    chosen = kind.create(out, options)
    reporter = reporter or Reporter()
    with _exclusive(out):
        before = _remembered(suite, out)
        statuses = cell_statuses(suite.cells, out, allow_changed_code=options.allow_changed_code)
        outcomes = [_before(one, before.get(_key(one)) or {}) for one in statuses]
        _run_cells(suite, chosen, outcomes, reporter)
        written = tables.write(suite, out, tables.sweep_table(outcomes, out))
        return Sweep(suite=suite, path=out, outcomes=tuple(outcomes), written=written)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Hold the folder: two sweeps at once would run every cell twice."""
    lock = filelock.FileLock(out / ".sweep.lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise MibenchError(
            f"another sweep is at work in {out}", cure="wait for it, or choose another --output"
        ) from error
    except OSError as error:
        raise write_error(out, error) from error
    try:
        yield
    finally:
        lock.release()


def _key(standing: CellStatus) -> str:
    return str(sorted(standing.cell.key.items()))


def _remembered(suite: Suite, out: Path) -> dict[str, JsonObject]:
    """What ``sweep.json`` says about each cell."""
    file = out / STATE
    if not file.exists():
        return {}
    cure = "delete it: which cells are complete is read from their folders"
    content = read_object(file, cure=cure)
    if content.get("suite") != suite.name:
        raise MibenchError(
            f"{out} holds the sweep {shown(content.get('suite'))}, this one is {suite.name!r}",
            cure="choose another --output",
        )
    cells = content.get("cells", [])
    good = isinstance(cells, list) and all(isinstance(c, dict) and isinstance(c.get("key"), dict) for c in cells)
    if not good or any(not isinstance(cell.get("seconds", 0.0), int | float | None) for cell in cells):
        raise MibenchError(f"cannot read {file}: it is not what a sweep writes", cure=cure)
    return {str(sorted(cell["key"].items())): cell for cell in cells}


def _before(standing: CellStatus, remembered: JsonObject) -> Outcome:
    """Where a cell stands before anything runs."""
    if standing.run is not None:
        return _ended(standing, standing.run, remembered.get("seconds"))
    return Outcome(standing=standing, status=standing.state, reason=standing.reason)


def _ended(standing: CellStatus, run: StoredRun, seconds: float | None) -> Outcome:
    """A finished run; where its protocol demands more than it has, a failure as for ``mibench run``."""
    if run.missing:
        return Outcome(standing=standing, status="failed", reason=demands(run.missing), run=run, seconds=seconds)
    return Outcome(standing=standing, status="complete", run=run, seconds=seconds)


def _save(suite: Suite, out: Path, outcomes: Sequence[Outcome]) -> None:
    cells = [
        {
            "key": outcome.standing.cell.key,
            "status": outcome.status,
            "reason": outcome.reason,
            "folder": outcome.standing.folder,
            "seconds": outcome.seconds,
        }
        for outcome in outcomes
    ]
    write_json(out / STATE, {"schema": SCHEMA, "suite": suite.name, "updated": _now(), "cells": cells})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _run_cells(suite: Suite, executor: Executor, outcomes: list[Outcome], reporter: Reporter) -> None:
    """Run what is left; ``outcomes`` follows."""
    log = WorkDirectory(executor.out)
    jobs = _jobs(outcomes)
    weights = _weights([outcomes[job.index].standing for job in jobs])
    bar = _Bar(outcomes, {job.index: weight for job, weight in zip(jobs, weights, strict=True)}, reporter)
    for outcome in outcomes:
        if outcome.status in FAILED:
            reporter.say(f"{outcome.standing.cell.title}: {outcome.status}: {outcome.reason}")
    _save(suite, executor.out, outcomes)
    if not jobs:
        return
    log.log(event="sweep", suite=suite.name, cells=len(outcomes), left=len(jobs), devices=list(executor.devices))
    reporter.start(suite.name)
    try:
        with closing(executor.run(jobs)) as events:
            for event in events:
                cell = outcomes[event.index].standing.cell
                if event.kind != "share":
                    log.log(event=event.kind, **cell.key, text=event.text, seconds=round(event.seconds, 3))
                if event.kind in ("complete", "failed"):
                    outcomes[event.index] = outcome = _after(outcomes[event.index], event, executor.out)
                    _save(suite, executor.out, outcomes)
                    reporter.say(bar.line(outcome))
                bar.move(event)
    except KeyboardInterrupt:
        log.log(event="interrupted")
        raise
    finally:
        reporter.stop()


def _jobs(outcomes: Sequence[Outcome]) -> list[Job]:
    """Cells to run, floors first: other cells are compared with them."""
    open_ones = [(i, o.standing) for i, o in enumerate(outcomes) if o.status in ("to do", "part done")]
    baseline = registry.role("baseline")
    open_ones.sort(key=lambda item: item[1].cell.request.attack != baseline)  # stable: otherwise the suite's order
    return [
        Job(index=index, request=one.cell.request, name=one.folder or f"cell-{index}", makes=one.makes)
        for index, one in open_ones
    ]


def _weights(unfinished: Sequence[CellStatus]) -> list[float]:
    """How far each cell moves the bar: by what it still has to compute, as far as it can say."""
    planned = [
        estimate.planned_work(one.plan, one.missing, one.prepared) if one.plan is not None else None
        for one in unfinished
    ]
    known = [estimate.weight(queries) for queries in planned if queries is not None]
    usual = max(sum(known) / len(known), 1.0) if known else 1.0
    return [usual if queries is None else max(estimate.weight(queries), 0.01 * usual) for queries in planned]


def _after(outcome: Outcome, event: Event, out: Path) -> Outcome:
    """A cell whose worker has ended."""
    standing, seconds = outcome.standing, round(event.seconds, 3)
    run = finished(standing.plan, standing.floor, out) if standing.plan is not None else None
    if event.kind == "complete" and run is not None:
        return _ended(standing, run, seconds)
    if standing.plan is not None:
        missing, prepared = progress(standing.plan, out)
        standing = replace(standing, missing=missing, prepared=prepared)
    reason = event.text or "its folder changed while it ran; the same command tries again"
    return Outcome(standing=standing, status="failed", reason=reason, run=run, seconds=seconds)


class _Bar:
    """The overall progress: shares of cells, weighted by what they have to compute."""

    def __init__(self, outcomes: Sequence[Outcome], weights: Mapping[int, float], reporter: Reporter) -> None:
        self._outcomes = outcomes
        self._weights = weights
        self._shares = dict.fromkeys(weights, 0.0)
        self._reporter = reporter

    def move(self, event: Event) -> None:
        """Show what an event changed."""
        if event.kind == "share":
            self._shares[event.index] = max(self._shares[event.index], event.share)
        elif event.kind in ("complete", "failed"):
            self._shares[event.index] = 1.0
        done = sum(weight * self._shares[index] for index, weight in self._weights.items())
        self._reporter.update(done, sum(self._weights.values()), self._counts())

    def _counts(self) -> str:
        failed = sum(outcome.status in FAILED for outcome in self._outcomes)
        return f"{self._ended()}/{len(self._outcomes)} cells" + (f", {failed} failed" if failed else "")

    def _ended(self) -> int:
        return sum(outcome.status in ("complete", *FAILED) for outcome in self._outcomes)

    def line(self, outcome: Outcome) -> str:
        """One finished cell: ``[3/45] dmmia against ir152, seed 1: acc@1 78.0 % [62.0, 90.0], 83 s``."""
        head = f"[{self._ended()}/{len(self._outcomes)}] {outcome.standing.cell.title}"
        if outcome.run is None or outcome.status in FAILED:
            return f"{head}: failed: {outcome.reason}"
        return f"{head}: {tables.headline(outcome.run)}{outcome.seconds or 0.0:.0f} s"
