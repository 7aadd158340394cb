"""How far each cell of a sweep is, read from the run directories. Nothing is written and nothing is started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.errors import MibenchError
from mibench.results import StoredRun
from mibench.runs.attack import stored_units
from mibench.runs.code import code_hashes
from mibench.runs.plan import Plan, make_plan
from mibench.runs.run import completed, refuse_changed_code
from mibench.runs.store import RunDir

from .cell import Cell

State = Literal["complete", "part done", "to do", "cannot start"]


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """Where a cell stands.

    Attributes:
        reason: why it cannot start; empty otherwise.
        plan, floor: what would run, and the floor it is compared with (None: it is one); no plan when it cannot start.
        units: of the run.
        missing: indices of the units that are not stored yet.
        prepared: whether the attack's preparation is stored.
        run: the finished run of a complete cell.
    """

    cell: Cell
    state: State
    reason: str = ""
    plan: Plan | None = None
    floor: Plan | None = None
    units: int = 0
    missing: tuple[int, ...] = ()
    prepared: bool = False
    run: StoredRun | None = None

    @property
    def folder(self) -> str | None:
        """Name of the run directory."""
        return self.plan.spec.run_name if self.plan is not None else None

    @property
    def makes(self) -> frozenset[str]:
        """Names of the run directories that running the cell would write."""
        plans = (self.plan, self.floor)
        return frozenset(plan.spec.run_name for plan in plans if plan is not None)

    @property
    def text(self) -> str:
        """The state, with the units of a part: ``part done, 3 of 5 units``."""
        if self.state == "part done":
            return f"part done, {self.units - len(self.missing)} of {self.units} units"
        return self.state


def cell_statuses(cells: Iterable[Cell], out: Path, *, allow_changed_code: bool = False) -> list[CellStatus]:
    """Where each cell stands in the output folder ``out``."""
    return [_cell_status(cell, out, allow_changed_code) for cell in cells]


def _cell_status(cell: Cell, out: Path, allow_changed_code: bool) -> CellStatus:
    try:
        plan = make_plan(cell.request)
        floor = plan.floor()
        for one in filter(None, (floor, plan)):
            folder = RunDir(out / one.spec.run_name)
            if folder.exists() and not allow_changed_code:
                refuse_changed_code(folder, code_hashes(one.parties))
        run = finished(plan, floor, out)
    except MibenchError as error:
        return CellStatus(cell=cell, state="cannot start", reason=one_line(str(error)))
    units, (missing, prepared) = len(plan.units), progress(plan, out)
    state: State = "to do"
    if run is not None:
        state = "complete"
    elif prepared or len(missing) < units:
        state = "part done"
    return CellStatus(
        cell=cell, state=state, plan=plan, floor=floor, units=units, missing=missing, prepared=prepared, run=run
    )


def progress(plan: Plan, out: Path) -> tuple[tuple[int, ...], bool]:
    """Indices of the units that are not stored yet, and whether the preparation is."""
    folder = RunDir(out / plan.spec.run_name)
    stored = set(stored_units(plan, folder)) if folder.exists() else set()
    missing = tuple(index for index in range(len(plan.units)) if index not in stored)
    return missing, folder.intact("state")


def finished(plan: Plan, floor: Plan | None, out: Path) -> StoredRun | None:
    """The run of a cell where it and its floor are complete, else None."""
    baseline = None
    if floor is not None:
        baseline = completed(floor, RunDir(out / floor.spec.run_name), None)
        if baseline is None:
            return None
    return completed(plan, RunDir(out / plan.spec.run_name), baseline)


def one_line(text: str) -> str:
    """A reason that fits into a cell of a table."""
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def demands(missing: Mapping[str, str]) -> str:
    """The reason of a run whose protocol demands metrics that have no value."""
    return "the protocol demands " + "; ".join(f"{name}, which has no value: {why}" for name, why in missing.items())


Status = Literal["complete", "failed", "cannot start", "part done", "to do"]


FAILED = ("failed", "cannot start")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a cell ended, or how far it is.

    Attributes:
        reason: of a cell that failed or cannot start.
        run: the finished run; also where its protocol demands a metric that has no value, which is a failure.
        seconds: that its worker took, start to end; None for one that did not run or ran before anybody counted.
    """

    standing: CellStatus
    status: Status
    reason: str = ""
    run: StoredRun | None = None
    seconds: float | None = None
