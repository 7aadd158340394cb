"""The units of one run side by side: ``mibench run --jobs N``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mibench.runs.parts import AttackElsewhere
from mibench.runs.plan import Plan
from mibench.runs.request import RunRequest
from mibench.system.progress import Reporter

from .executors.contract import ExecutorOptions, Job
from .executors.local import LocalExecutor


def units_side_by_side(request: RunRequest, out: Path, options: ExecutorOptions, reporter: Reporter) -> AttackElsewhere:
    """What attacks units of a run in worker processes of this machine, each worker a share of them.

    A worker that fails leaves its units to the process of the run.

    Raises:
        MibenchError: fewer than one job, no such device.
    """
    executor = LocalExecutor.create(out, options)
    workers = len(executor.devices)

    def attack(plan: Plan, units: tuple[int, ...]) -> None:
        name = plan.spec.run_name
        shares = [units[number::workers] for number in range(min(workers, len(units)))]
        jobs = [Job(index=i, request=request, name=f"{name}-{i}", units=share) for i, share in enumerate(shares)]
        done = [0.0] * len(jobs)
        reporter.start(f"{plan.spec.attack}: {len(units)} units, {len(jobs)} side by side", attack=plan.spec.attack)
        try:
            with closing(executor.run(jobs)) as events:
                for event in events:
                    if event.kind == "message":
                        reporter.say(event.text)
                    elif event.kind == "failed":
                        reporter.say(f"a worker failed ({event.text}); this process attacks what it left")
                    done[event.index] = 1.0 if event.kind == "complete" else max(done[event.index], event.share)
                    reporter.update(sum(done), len(jobs))
        finally:
            reporter.stop()

    return attack
