"""Attacks side by side: rows with intervals, paired tests over identities, the smallest difference that shows.

Seeds are pooled first: an identity's value is its mean over the seeds, and identities are what is resampled and tested.
Held fixed by every interval and test: the weights of target, judge and prior. See ``docs/comparing.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.api import Estimate, MetricInfo, MibenchError
from mibench.results import ComparisonFunction, StoredRun, merged_infos, pooled

from . import comparison_tables
from .comparison import Comparison, Row
from .row_labels import prior_of
from .rows import (
    Pool,
    circumstances,
    differing,
    open_runs,
    pool_runs,
    refuse_mixture,
)
from .significance import LEVEL, PAIRED_ROWS, Difference, adjust, check_reference, difference, pairs, suggest, untested

_COSTS = ("queries_forward", "queries_backward", "seconds")


class PrintedComparison(Comparison):
    """A comparison that prints and writes itself: what ``mibench compare`` asks of a comparison."""

    def render(self, kind: str = "text", *, width: int = 110) -> str:
        """The comparison as ``text`` (tables cut at ``width`` letters), ``markdown``, ``csv`` (rows) or ``latex``."""
        return comparison_tables.render(self, kind, width=width)

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""
        return comparison_tables.as_plain(self)

    def write(self, folder: Path | str) -> list[Path]:
        """Write ``comparison`` and ``differences`` as CSV, Markdown and LaTeX, and the figure as PNG and SVG."""
        return comparison_tables.write_all(self, Path(folder))


def compare(
    runs: StoredRun | Path | str | Sequence[StoredRun | Path | str],
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    mix: bool = False,
) -> PrintedComparison:
    """Compare finished runs.

    Args:
        runs: runs, their folders, or folders of runs; floors that lie beside them come along.
        reference: label or attack that every row is tested against; ``floor`` is each row's own floor. By default
            every pair is tested on targets with at most ``PAIRED_ROWS`` rows, else every row against the first one.
        metrics: which to show and to test, out of those that have a value for each identity; by default those that say
            they are tested, and every metric that stands in comparisons is shown.
        mix: show runs of different protocols, data sets, judges or identities beside each other, without tests
            between them, instead of refusing.

    Raises:
        MibenchError: runs that are unfinished or must not be compared, an unknown reference or metric.
    """
    opened, left_out = open_runs([runs] if isinstance(runs, StoredRun | Path | str) else list(runs))
    infos = merged_infos(run.infos for run in opened)
    tested = _tested(infos, metrics)
    shown = {name: info for name, info in infos.items() if "comparison" in info.views or name in tested}
    facts = [circumstances(run) for run in opened]
    if not mix:
        refuse_mixture(opened, facts)
    pools = pool_runs(opened, facts)
    differences: list[Difference] = []
    notes: list[str] = []
    for target in dict.fromkeys(pool.target for pool in pools):
        block = [pool for pool in pools if pool.target == target]
        tests = pairs(block, reference)
        notes += untested(target, block, reference, tests)
        differences += [difference(*pair, metric) for metric in tested for pair in tests]
    check_reference(reference, pools)
    differences, family = adjust(differences)
    return PrintedComparison(
        infos=shown,
        rows=tuple(_row(pool, shown) for pool in pools),
        differences=tuple(differences),
        tested=tested,
        family=family,
        reference=reference,
        mixed=tuple(differing(facts)),
        notes=tuple(notes + _remarks(pools, family, reference)),
        left_out=left_out,
        requested=tuple(dict.fromkeys(metrics)),
    )


def _tested(infos: Mapping[str, MetricInfo], requested: Sequence[str]) -> tuple[str, ...]:
    """The metrics that are tested: those requested, or those that say so.

    Raises:
        MibenchError: one that was requested has no value for each identity.
    """
    known = [info.name for info in infos.values() if info.column is not None]
    for name in requested:
        if name not in known:
            raise MibenchError(
                f"{name!r} cannot be tested over identities{suggest(name, known)} (known: {', '.join(known)})"
            )
    usual = (name for name in known if infos[name].tested and "comparison" in infos[name].views)
    return tuple(dict.fromkeys(requested)) or tuple(usual)


def _row(pool: Pool, infos: Mapping[str, MetricInfo]) -> Row:
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


def _remarks(pools: Sequence[Pool], family: int, reference: str | None) -> list[str]:
    """What a reader would otherwise have to find out."""
    notes = []
    fewest = min(len(pool.identities) for pool in pools)
    least = 2.0 ** (1 - fewest) if fewest < 60 else 0.0
    if family and family * least > LEVEL:
        notes.append(
            f"with {fewest} identities no p value is below {least:.2g}, so among {family} tests none can reach "
            f"{LEVEL:g}: attack more identities, or test fewer pairs or metrics"
        )
    seeds = {len(pool.runs) for pool in pools}
    if len(seeds) > 1:
        notes.append(f"rows have different numbers of seeds ({min(seeds)} to {max(seeds)})")
    elif len({tuple(sorted(str(run.seed) for run in pool.runs)) for pool in pools}) > 1:
        notes.append("rows have different seeds")
    devices = {str((run.record.get("environment") or {}).get("device_name", "")) for pool in pools for run in pool.runs}
    if len(devices) > 1:
        notes.append(f"seconds and memory come from different machines: {', '.join(sorted(map(str, devices)))}")
    crowded = [target for target in dict.fromkeys(p.target for p in pools) if _size(pools, target) > PAIRED_ROWS]
    if crowded and reference is None:
        notes.append(
            f"more than {PAIRED_ROWS} rows: on {', '.join(crowded)} each is tested against the first one only; "
            "choose another with --reference"
        )
    return notes


def _size(pools: Iterable[Pool], target: str) -> int:
    return sum(pool.target == target for pool in pools)


if TYPE_CHECKING:
    _: ComparisonFunction = compare  # held to the contract
