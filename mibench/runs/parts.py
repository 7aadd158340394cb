"""Some units of a run, for a process that attacks them beside others; the process that holds the run goes on with them.

Units share nothing but the attack's stored preparation, and each has random streams of its own, so who attacks one
changes no byte of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mibench.errors import MibenchError
from mibench.party_errors import parties_named
from mibench.runs.attack import Execution, attack_units, stored_units
from mibench.runs.plan import Plan, make_plan
from mibench.runs.request import RunRequest
from mibench.runs.store import RunDir, unit_stem
from mibench.system.turns import computing

AttackElsewhere = Callable[[Plan, tuple[int, ...]], None]  # attacks units in other processes; may leave some undone


@dataclass(frozen=True)
class RunPart(RunDir):
    """A run directory in which only some units are still to do: the others count as stored.

    Attributes:
        units: indices of those that count as they are.
    """

    units: frozenset[int] = frozenset()

    def intact(self, stem: str) -> bool:
        """Whether the tensors of a stem are there, or are not this part's concern."""
        return (stem.startswith("units/") and stem not in {unit_stem(unit) for unit in self.units}) or super().intact(
            stem
        )


def attack_part(request: RunRequest, out: Path, units: Sequence[int], machine: Execution) -> None:
    """Attack some units of a run that another process holds, whose preparation is stored.

    Raises:
        MibenchError: there is no such run here, or its preparation is not stored.
    """
    with computing(machine.reporter), parties_named():
        plan = make_plan(request)
        folder = RunPart(out / plan.spec.run_name, frozenset(units))
        if folder.record().get("digest") != plan.spec.digest() or not folder.intact("state"):
            raise MibenchError(f"{folder.path} has no stored preparation", cure="start it with mibench run")
        attack_units(plan, folder, machine)


def attack_side_by_side(plan: Plan, folder: RunDir, machine: Execution, elsewhere: AttackElsewhere) -> None:
    """Prepare the attack here and have its units attacked elsewhere. Called inside ``folder.writing()``.

    What is not stored afterwards is left to :func:`~mibench.runs.attack.attack_units`: so a unit that fails elsewhere
    fails here with its reason.
    """
    stored = set(stored_units(plan, folder))
    missing = tuple(unit for unit in range(len(plan.units)) if unit not in stored)
    if len(missing) > 1:
        attack_units(plan, RunPart(folder.path), machine)
        elsewhere(plan, missing)
