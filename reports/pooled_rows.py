"""A row of a comparison from the runs of one pool: estimates over seeds, costs per identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mibench.api import Estimate, MetricInfo
from mibench.results import StoredRun, pooled

from .comparison import Row
from .row_labels import prior_of
from .rows import Pool

_COSTS = ("queries_forward", "queries_backward", "seconds")


def row_of(pool: Pool, infos: Mapping[str, MetricInfo]) -> Row:
    """The row of a pool, with the metrics of ``infos`` that were measured."""
    first = pool.runs[0]
    costs = [_cost(run, len(pool.identities)) for run in pool.runs]
    environments = [run.record.get("environment") or {} for run in pool.runs]
    devices = {f"{each.get('device', '?')} ({each.get('device_name', '?')})" for each in environments if each}
    return Row(
        target=pool.target,
        label=pool.label,
        attack=first.attack,
        prior=prior_of(first),
        protocol=first.protocol,
        dataset=first.dataset,
        floor=pool.floor,
        runs=tuple(str(run.path) for run in pool.runs),
        seeds=tuple(run.seed for run in pool.runs),
        identities=len(pool.identities),
        estimates={name: _pooled_estimate(pool, info) for name, info in infos.items() if name in first.metrics},
        by_seed={
            name: tuple(run.metrics[name].value if name in run.metrics else None for run in pool.runs)
            for name in infos
            if name in first.metrics
        },
        cost={name: _pooled_cost(name, [each[name] for each in costs]) for name in costs[0]},
        devices=tuple(sorted(devices)),
        sees_private=pool.sees_private,
    )


def _pooled_estimate(pool: Pool, info: MetricInfo) -> Estimate:
    """A single run's own estimate; over seeds the mean, with an interval where identities have values."""
    estimates = [run.metrics.get(info.name) for run in pool.runs]
    first = pool.runs[0].metrics[info.name]
    seeds = len(estimates)
    if seeds == 1:
        return first
    values = [estimate.value for estimate in estimates if estimate is not None and estimate.value is not None]
    if len(values) < seeds:
        reason = next((e.reason for e in estimates if e is not None and e.reason), "a run lacks it")
        return replace(first, value=None, low=None, high=None, reason=reason)
    if (by_identity := pool.values(info.name)) is not None:
        return pooled(first, by_identity, seeds=seeds, samples=pool.samples)
    why = "none: it has no value for each identity, so seeds have no interval in common"
    return replace(first, value=sum(values) / seeds, low=None, high=None, params={"seeds": seeds, "interval": why})


def _cost(run: StoredRun, identities: int) -> dict[str, float | None]:
    stages = run.cost()
    cost: dict[str, float | None] = {}
    for stage in ("prepare", "attack"):
        for name in _COSTS:
            whole = stages[stage].get(name)
            cost[f"{stage}_{name}"] = None if whole is None else whole / identities
    peaks = [peak for stage in ("prepare", "attack") if (peak := stages[stage].get("peak_memory_bytes")) is not None]
    cost["peak_memory_bytes"] = max(peaks) if peaks else None
    cost["prior_queries_forward"] = stages["prior"].get("queries_forward")
    return cost


def _pooled_cost(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return max(known) if name == "peak_memory_bytes" else sum(known) / len(known)
