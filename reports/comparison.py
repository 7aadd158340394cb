"""A comparison as data: rows and the differences between them. Tables and figures are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mibench.api import Estimate, MetricInfo

from .judges import Judge
from .significance import Difference


@dataclass(frozen=True, kw_only=True)
class Row:
    """An attack on a target, seeds pooled.

    Attributes:
        target, label: block and name of the row.
        attack, prior, protocol, dataset: what the runs were made with.
        floor: whether it is the prior alone.
        sees_private: whether it is a control that was handed private images; no test and no bold type counts it.
        runs, seeds: paths and seeds of the runs, in the same order.
        identities: how many.
        estimates: metric -> estimate; the interval is over identities.
        by_seed: metric -> value of each run.
        cost: ``prepare_*`` and ``attack_*`` queries and seconds per identity, ``peak_memory_bytes``, and
            ``prior_queries_forward`` of the prior's training in all; means over seeds (memory: the highest). None is
            not recorded.
        devices: what computed them.
    """

    target: str
    label: str
    attack: str
    prior: str
    protocol: str
    dataset: str
    floor: bool
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    identities: int
    estimates: Mapping[str, Estimate]
    by_seed: Mapping[str, tuple[float | None, ...]]
    cost: Mapping[str, float | None]
    devices: tuple[str, ...]
    sees_private: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows by target (attacks, then floors) and the differences between them.

    Attributes:
        infos: metric -> what it says about itself; those that are shown, in the order of tables.
        tested: metrics that were tested.
        family: how many tests Holm's adjustment covers.
        reference: the row that the others were tested against; None for every pair.
        mixed: names of circumstances that differ between the rows (only after ``mix=True``).
        notes: sentences that a reader needs, warnings first.
        left_out: sentences on runs that were not used.
        judges: who judged, with their error rates and controls.
        requested: metrics that a person asked for, which alone are printed; empty: all, with costs.
    """

    infos: Mapping[str, MetricInfo]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    tested: tuple[str, ...]
    family: int
    reference: str | None
    mixed: tuple[str, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    judges: tuple[Judge, ...] = ()
    requested: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Blocks in order."""
        return tuple(dict.fromkeys(row.target for row in self.rows))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that some row has a value for, in the order they are shown."""
        return tuple(
            name
            for name in self.infos
            if any(name in row.estimates and row.estimates[name].value is not None for row in self.rows)
        )

    def stands_out(self, row: Row, metric: str) -> bool:
        """Whether a row is significantly stronger than every other row of its target that has a value."""
        others = {
            other.label
            for other in self.rows
            if other.target == row.target
            and other.label != row.label
            and not other.sees_private
            and _value(other, metric) is not None
        }
        beaten = {
            each.second if each.first == row.label else each.first
            for each in self.differences
            if each.target == row.target and each.metric == metric and each.stronger == row.label
        }
        return bool(others) and others <= beaten


def _value(row: Row, metric: str) -> float | None:
    return row.estimates[metric].value if metric in row.estimates else None
