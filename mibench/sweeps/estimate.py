"""What is left of a sweep: images to show the victims, and a rough number of seconds.

Seconds come from finished runs of the same attack against the same target in the output folder, where there are any,
else from timing a few images through the target and the prior. Judging and drawing are not in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from mibench.api import Access, Queries
from mibench.errors import MibenchError
from mibench.results import open_run
from mibench.rng import stream
from mibench.runs.attack import max_micro_batch
from mibench.runs.plan import Plan
from mibench.system.devices import deterministic
from mibench.system.malloc import keep_freed_memory
from mibench.weights import load

from .status import CellStatus, progress

IMAGES = 16  # timed at once, fewer where a prior's images are too large for that
TIMES = 3  # the fastest one counts
BACKWARD = 2.0  # a backward pass costs about two forward passes; scales finished runs of other settings


@dataclass(frozen=True)
class Cost:
    """Images still to be shown and seconds still to go; None: not known beforehand."""

    queries: Queries | None
    seconds: float | None
    basis: Literal["", "finished runs", "timed here"] = ""


@dataclass(frozen=True)
class CostEstimate:
    """The cost of everything that is not finished.

    Attributes:
        cells: of each standing, in order; nothing for those that are complete or cannot start.
        floors: floors that are no cells but that cells are compared with, by the name of their folder.
        seconds: of one worker after the other's work; None when a cell's are unknown.
        seconds_side_by_side: with as many workers as asked for.
    """

    cells: tuple[Cost, ...]
    floors: dict[str, Cost]
    queries: Queries | None
    seconds: float | None
    seconds_side_by_side: float | None


def planned(plan: Plan, missing: Sequence[int], prepared: bool) -> Queries | None:
    """Images that the units ``missing``, and the preparation unless ``prepared``, will show the victim."""
    parts = [] if prepared else [plan.attack.planned_preparation()]
    units = plan.units
    parts += [plan.attack.planned_queries(len(units[index])) for index in missing]
    return total(parts)


def planned_work(plan: Plan, missing: Sequence[int], prepared: bool) -> Queries | None:
    """The same with the images that a surrogate will be shown: they take time, too."""
    surrogate = [plan.attack.planned_surrogate_queries(len(plan.units[index])) for index in missing]
    return total([planned(plan, missing, prepared), *surrogate])


def total(parts: Iterable[Queries | None]) -> Queries | None:
    """The sum; None when a part is unknown."""
    queries = Queries()
    for part in parts:
        if part is None:
            return None
        queries = Queries(queries.forward + part.forward, queries.backward + part.backward)
    return queries


def weight(queries: Queries) -> float:
    """Passes through the networks, a backward one counting :data:`BACKWARD`."""
    return queries.forward + BACKWARD * queries.backward


def cost_estimate(cell_statuses: Sequence[CellStatus], out: Path, device: torch.device, jobs: int) -> CostEstimate:
    """What is left to do with ``jobs`` workers. Times are taken with PyTorch's present number of threads."""
    clock = CostEstimator(out, device)
    shared = _shared_floors(cell_statuses, out)
    costs = {id(one): clock.cost(one.plan, one.missing, one.prepared) for one in _open(cell_statuses)}
    floors = {name: clock.cost(plan, *progress(plan, out)) for name, plan in shared.items()}
    nothing = Cost(Queries(), 0.0)
    cells = tuple(costs.get(id(standing), nothing) for standing in cell_statuses)
    every = [*floors.values(), *costs.values()]
    seconds = [cost.seconds for cost in every if cost.seconds is not None]
    known = len(seconds) == len(every)
    return CostEstimate(
        cells,
        floors,
        total(cost.queries for cost in every),
        sum(seconds) if known else None,
        _side_by_side(seconds, jobs) if known else None,
    )


def _open(cell_statuses: Sequence[CellStatus]) -> list[CellStatus]:
    return [standing for standing in cell_statuses if standing.state in ("to do", "part done")]


def _shared_floors(cell_statuses: Sequence[CellStatus], out: Path) -> dict[str, Plan]:
    """Floors that running the cells will make on the way: not cells themselves, and not complete."""
    own = {standing.folder for standing in cell_statuses}
    floors = {s.floor.spec.run_name: s.floor for s in _open(cell_statuses) if s.floor is not None}
    return {name: plan for name, plan in floors.items() if name not in own and progress(plan, out)[0]}


def _side_by_side(seconds: Iterable[float], jobs: int) -> float:
    """When the last of ``jobs`` workers is done, each taking the next cell as soon as it is free."""
    free = [0.0] * jobs
    for one in seconds:
        free[free.index(min(free))] += one
    return max(free)


@dataclass
class CostEstimator:
    """Estimates seconds; what it has read or timed once it remembers."""

    out: Path
    device: torch.device
    _timed: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)
    _finished: dict[tuple[str, str, str], list[tuple[float, float, int]]] | None = None

    def cost(self, plan: Plan | None, missing: Sequence[int], prepared: bool) -> Cost:
        """Of the units ``missing``, and of the preparation unless ``prepared``."""
        if plan is None:
            return Cost(None, None)
        queries, work = planned(plan, missing, prepared), planned_work(plan, missing, prepared)
        done = self.finished().get((plan.spec.attack, str(plan.spec.variant), plan.spec.target.sha256), [])
        if work is not None and (rates := [seconds / shown for seconds, shown, _ in done if shown]):
            return Cost(queries, median(rates) * weight(work), "finished runs")
        if queries is None and done:
            share = [seconds / units for seconds, _, units in done if units]
            return Cost(None, median(share) * len(missing), "finished runs") if share else Cost(None, None)
        if queries is None or work is None:
            return Cost(queries, None)
        try:
            forward, both = self.timed(plan)
        except MibenchError:
            return Cost(queries, None)  # corrupt weights, say: the cell will fail with the reason
        return Cost(queries, (work.forward - work.backward) * forward + work.backward * both, "timed here")

    def finished(self) -> dict[tuple[str, str, str], list[tuple[float, float, int]]]:
        """Attack, variant and target -> seconds, weight of the queries and units of each complete run in the folder."""
        if self._finished is None:
            self._finished = {}
            for path in sorted(self.out.glob("*/run.json")):
                try:
                    run = open_run(path.parent)
                    if run.status != "complete":
                        continue
                    cost, spec = run.cost(), run.specification
                    key = str(spec["attack"]), str(spec.get("variant")), str(spec["target"]["sha256"])
                    units = int(run.record["units"])
                except (MibenchError, KeyError, TypeError, ValueError):
                    continue  # somebody else's folder, or a damaged one: no help for an estimate
                parts = [cost["prepare"], cost["attack"]]
                seconds = sum(part["seconds"] or 0.0 for part in parts)
                parts += [cost["surrogate"]] if "surrogate" in cost else []
                shown = sum((p["queries_forward"] or 0) + BACKWARD * (p["queries_backward"] or 0) for p in parts)
                if seconds > 0:
                    self._finished.setdefault(key, []).append((seconds, shown, units))
        return self._finished

    def timed(self, plan: Plan) -> tuple[float, float]:
        """Seconds per image through the prior and the target: forwards, and forwards and backwards."""
        prior = plan.spec.prior.card if plan.prior is not None and plan.spec.prior is not None else ""
        key = plan.spec.target.card, prior, plan.spec.precision
        if key not in self._timed:
            self._timed[key] = _time(plan, self.device)
        return self._timed[key]


def _time(plan: Plan, device: torch.device) -> tuple[float, float]:
    keep_freed_memory()  # as the engine does
    access = load.max_access(plan.target.card())
    victim = load.build_victim(plan.target, access, device)
    size = victim.image.size
    count = IMAGES
    start = torch.rand(count, 3, size, size, generator=stream(0, "timing", "images"))
    decode = None
    if plan.prior is not None and plan.spec.prior is not None:
        prior = load.build_prior(plan.prior, plan.spec.prior.arguments, device)
        count = min(count, max_micro_batch(prior, device))
        start, decode = prior.sample(count, stream(0, "timing", "latents")), prior.decode
    start = start.to(device)

    def images() -> torch.Tensor:
        made = start if decode is None else decode(start)
        if made.shape[-1] != size:
            made = torch.nn.functional.interpolate(made, size=(size, size), mode="bilinear", antialias=True)
        return made

    def forwards() -> None:
        with torch.no_grad():
            victim.labels(images()) if access < Access.SCORES else victim.scores(images())

    def both() -> None:
        start.requires_grad_(True)
        torch.autograd.grad(victim.logits(images()).sum(), start)

    with deterministic(device, plan.spec.precision):
        forward = _fastest(forwards, device) / count
        return forward, _fastest(both, device) / count if access >= Access.GRADIENTS else forward


def _fastest(work: Callable[[], None], device: torch.device) -> float:
    """Seconds; the first time warms up."""
    taken = []
    for _ in range(1 + TIMES):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
