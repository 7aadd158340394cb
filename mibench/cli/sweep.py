"""``mibench sweep``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .format import text_columns
from .options import device_option, json_option, output_option, plugin_option
from .progress import duration
from .prose import say

if TYPE_CHECKING:
    from mibench.api import Queries
    from mibench.sweeps.estimate import Cost
    from mibench.sweeps.sweep import DryRun, Sweep


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench sweep smoke --dry-run        list what would run and its cost
  mibench sweep claims --jobs 2        two cells in parallel, half the CPU cores each
  mibench sweep mine.yaml --output x   your own matrix
  mibench sweep mine.yaml --executor ray --address auto   on a Ray cluster
""",
)
@click.argument("suite", metavar="SUITE")
@click.option("--dry-run", is_flag=True, help="List cells, their progress and remaining cost; start nothing.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cells in parallel; they share the CPU cores. On a CPU, N cells on one core each beat one on N.  "
    "[default: one on a CPU, one per GPU, all that a cluster has room for]",
)
@click.option("--executor", default="local", show_default=True, metavar="local|ray", help="Where cells run.")
@click.option("--address", metavar="ADDRESS", help="Running Ray cluster: HOST:PORT or auto.  [default: a local one]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="PyTorch's threads in each worker.  [default: the cores divided by --jobs; 1 on a cluster]",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="End a cell that takes longer.  [default: never]")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    metavar="N",
    help="Times that a cell goes to another worker when its worker died.",
)
@click.option("--warm", is_flag=True, help="Keep worker processes for further cells: saves their start-up.")
@output_option(None, "Folder of run directories and tables.  [default: runs/NAME-OF-SUITE]")
@device_option
@click.option("--allow-changed-code", is_flag=True, help="Resume runs although the code has changed since.")
@plugin_option
@json_option
@click.pass_context
def sweep(
    ctx: click.Context,
    *,
    suite: str,
    dry_run: bool,
    jobs: int | None,
    executor: str,
    address: str | None,
    threads: int | None,
    timeout: float | None,
    retries: int,
    warm: bool,
    output: Path | None,
    device: str,
    allow_changed_code: bool,
    as_json: bool,
) -> None:
    """Run a matrix of attacks, targets and seeds, and write one table.

    SUITE is a YAML file or the name of a shipped suite (`mibench list suites`). Each cell is a `mibench run` in its
    own process: a failure is reported and does not stop the others. Repeat the command to continue an interrupted
    sweep and retry failed cells. Exits with 1 if a cell failed or cannot start.
    """
    from mibench.commands import forecast
    from mibench.commands import sweep as run_sweep

    from .progress import reporter

    if dry_run:
        plan = stdout_to_stderr()(forecast)(
            suite, output, jobs=jobs, device=device, threads=threads, allow_changed_code=allow_changed_code
        )
        if as_json:
            click.echo(json.dumps(forecast_plain(plan), indent=2))
        else:
            for line in forecast_lines(plan):
                say(line)
        stuck = [standing for standing in plan.cell_statuses if standing.state == "cannot start"]
        if stuck:
            more = ", ..." if len(stuck) > 1 else ""
            cause = f"{len(stuck)} of {len(plan.cell_statuses)} cells cannot start: {stuck[0].cell.title}{more}"
            say(f"error: {cause}", err=True)
            ctx.exit(1)
        return
    done = stdout_to_stderr()(run_sweep)(
        suite,
        output,
        jobs=jobs,
        device=device,
        executor=executor,
        address=address,
        threads=threads,
        timeout=timeout,
        retries=retries,
        warm=warm,
        allow_changed_code=allow_changed_code,
        reporter=reporter(),
    )
    if as_json:
        click.echo(json.dumps(sweep_plain(done), indent=2))
    else:
        for line in sweep_lines(done):
            say(line)
    for outcome in done.failed:
        say(f"error: {outcome.standing.cell.title}: {outcome.status}: {outcome.reason}", err=True)
    if done.failed:
        ctx.exit(1)


def sweep_plain(done: Sweep) -> dict[str, object]:
    """A finished sweep as JSON."""
    from mibench.sweeps.tables import sweep_table

    return {
        "suite": done.suite.name,
        "path": str(done.path),
        "cells": list(sweep_table(done.outcomes, done.path).rows),
        "failed": len(done.failed),
        "files": [str(path) for path in done.written.files],
        "notes": list(done.written.notes),
    }


def sweep_lines(done: Sweep) -> list[str]:
    """The table and where everything else lies: comparisons are long, and in files."""
    from mibench.sweeps.tables import sweep_table

    complete = len(done.outcomes) - len(done.failed)
    width = max(80, shutil.get_terminal_size((110, 24)).columns)
    lines = [*sweep_table(done.outcomes, done.path).brief(width), ""]
    lines += [f"{complete} of {len(done.outcomes)} cells complete; everything is in {done.path}"]
    lines += [f"  {path}" for path in done.written.files if path.suffix == ".md"]
    return [*lines, *done.written.notes]


def forecast_plain(plan: DryRun) -> dict[str, object]:
    """A forecast as JSON."""
    cost_estimate = plan.cost_estimate
    cells = [
        {
            **standing.cell.key,
            "state": standing.state,
            "reason": standing.reason,
            "failed_last_time": reason,
            "units": standing.units,
            "units_stored": standing.units - len(standing.missing),
            "folder": standing.folder,
            **cost_plain(cost),
        }
        for standing, reason, cost in zip(plan.cell_statuses, plan.last_time, cost_estimate.cells, strict=True)
    ]
    return {
        "suite": plan.suite.name,
        "path": str(plan.path),
        "jobs": plan.jobs,
        "threads": plan.threads,
        "cells": cells,
        "floors": {name: cost_plain(cost) for name, cost in cost_estimate.floors.items()},
        "total": {
            "queries_forward": cost_estimate.queries.forward if cost_estimate.queries else None,
            "queries_backward": cost_estimate.queries.backward if cost_estimate.queries else None,
            "seconds": _rounded(cost_estimate.seconds),
            "seconds_side_by_side": _rounded(cost_estimate.seconds_side_by_side),
        },
    }


def cost_plain(cost: Cost) -> dict[str, object]:
    """What is left of a cell as JSON."""
    return {
        "queries_forward": cost.queries.forward if cost.queries else None,
        "queries_backward": cost.queries.backward if cost.queries else None,
        "seconds": _rounded(cost.seconds),
        "basis": cost.basis,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def forecast_lines(plan: DryRun) -> list[str]:
    """Cells, floors and totals for people."""
    cost_estimate = plan.cost_estimate
    reasons: list[str] = []  # each once, below the table: they are long, and cells share them

    def note(reason: str) -> str:
        if reason not in reasons:
            reasons.append(reason)
        return f"({reasons.index(reason) + 1})"

    table = [("cell", "state", "queries left", "time left")]
    for standing, failure, cost in zip(plan.cell_statuses, plan.last_time, cost_estimate.cells, strict=True):
        if standing.state == "cannot start":
            state = f"cannot start {note(standing.reason)}"
        else:
            state = standing.text + (f", failed last time {note(failure)}" if failure else "")
        idle = standing.state in ("complete", "cannot start")
        table.append((standing.cell.title, state, *(("", "") if idle else _cost(cost))))
    table += [(f"{name}, computed on the way", "to do", *_cost(cost)) for name, cost in cost_estimate.floors.items()]
    lines = text_columns(table)
    lines += ["", *(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))] if reasons else []
    count = {state: sum(s.state == state for s in plan.cell_statuses) for state in ("complete", "cannot start")}
    remaining = len(plan.cell_statuses) - sum(count.values())
    lines += [
        "",
        f"{len(plan.cell_statuses)} cells: {count['complete']} complete, {remaining} to run, "
        f"{count['cannot start']} cannot start",
        f"remaining queries: {_queries(cost_estimate.queries)}",
    ]
    if remaining:
        lines.append(f"estimated time: {_time(cost_estimate.seconds)} sequentially" + _together(plan))
        lines.append(f"({_basis(plan)}; start-up, judging and reports add a few seconds per cell)")
    return lines


def _together(plan: DryRun) -> str:
    return f", {_time(plan.cost_estimate.seconds_side_by_side)} with {plan.jobs} jobs" if plan.jobs > 1 else ""


def _basis(plan: DryRun) -> str:
    bases = {cost.basis for cost in (*plan.cost_estimate.cells, *plan.cost_estimate.floors.values())} - {""}
    threads = f"{plan.threads} thread{'s' if plan.threads > 1 else ''} each"
    return f"{threads}, from " + " and ".join(sorted(bases)) if bases else threads


def _cost(cost: Cost) -> tuple[str, str]:
    return _queries(cost.queries), _time(cost.seconds)


def _queries(queries: Queries | None) -> str:
    return "unknown" if queries is None else f"{queries.forward:,} forward, {queries.backward:,} backward"


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds)
