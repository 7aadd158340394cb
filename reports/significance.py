"""Which rows of a comparison are tested against which, and the tests."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mibench.api import Estimate, MetricInfo, MibenchError
from mibench.results import adjusted, compared, is_proportion, without_value

from .formatting import FLOOR
from .row_labels import prior_of
from .rows import Pool, differing, value_of

PAIRED_ROWS = 6  # up to here every row is tested against every other one
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``first - second`` in one metric on one target, paired over identities.

    Attributes:
        estimate: mean difference with a 95 % interval; null with the reason when it was not tested.
        p_value: two-sided, of the sign-flip test.
        p_holm: adjusted for every test of the comparison.
        detectable: the smallest true difference that one such test at 5 % finds in 80 % of cases.
        stronger: the row whose attack does better, where ``p_holm`` is at most 0.05; else None.
    """

    target: str
    first: str
    second: str
    metric: str
    estimate: Estimate
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    stronger: str | None = None


def pairs(block: Sequence[Pool], reference: str | None) -> list[tuple[Pool, Pool]]:
    """Which rows of a target are tested against which."""
    if reference is None:
        if len(block) <= PAIRED_ROWS:
            return [(first, second) for index, first in enumerate(block) for second in block[index + 1 :]]
        return [(pool, block[0]) for pool in block[1:]]
    if reference == FLOOR:
        return [(pool, floor) for pool in block if not pool.floor and (floor := _own_floor(pool, block)) is not None]
    matching = [pool for pool in block if reference in (pool.label, pool.runs[0].attack)]
    exact = [pool for pool in matching if pool.label == reference]
    unchanged = [pool for pool in matching if not _changed_by_hand(pool)]
    references = exact or (unchanged if len(unchanged) == 1 else matching)
    if len(references) > 1:
        raise MibenchError(
            f"the reference {reference!r} means several rows: {', '.join(pool.label for pool in matching)}",
            cure="name one",
        )
    return [(pool, other) for other in references for pool in block if pool is not other]


def _changed_by_hand(pool: Pool) -> bool:
    """Whether a person set something of its attack or prior: a variant, beside the row that is as its preset says."""
    settings = pool.runs[0].record.get("settings")
    return isinstance(settings, dict) and any(
        name.startswith(("attack.", "prior.")) and isinstance(setting, dict) and setting.get("by_user") is True
        for name, setting in settings.items()
    )


def _own_floor(pool: Pool, block: Sequence[Pool]) -> Pool | None:
    """The floor that the runs name; where they name none, the only one with the same prior."""
    names = {run.path.resolve().parent / str(run.record.get("floor")) for run in pool.runs}
    floors = [other for other in block if other.floor]
    named = [other for other in floors if names & {run.path.resolve() for run in other.runs}]
    alike = [other for other in floors if prior_of(other.runs[0]) == prior_of(pool.runs[0])]
    return named[0] if named else alike[0] if len(alike) == 1 else None


def check_reference(reference: str | None, pools: Sequence[Pool]) -> None:
    """Refuse a reference that no row is called by, and controls that see private images.

    Raises:
        MibenchError: unknown name, with the nearest known one; a control.
    """
    known = list(dict.fromkeys(name for pool in pools for name in (pool.label, pool.runs[0].attack)))
    if reference is not None and reference not in known:
        raise MibenchError(
            f"no row is called {reference!r}{suggest(reference, known)} (rows: "
            f"{', '.join(dict.fromkeys(pool.label for pool in pools))})"
        )
    called = [pool for pool in pools if reference in (pool.label, pool.runs[0].attack)]
    if called and all(pool.sees_private for pool in called):
        raise MibenchError(
            f"{called[0].label} is a control, and nothing is tested against it", cure="name a row that is an attack"
        )


def difference(first: Pool, second: Pool, metric: str) -> Difference:
    """Test two rows in one metric; not adjusted yet, null with the reason when they cannot be tested."""
    unmeasured = Difference(
        target=first.target,
        first=first.label,
        second=second.label,
        metric=metric,
        estimate=Estimate(name=metric, value=None, reason="a run has no value for each identity"),
    )
    varying = differing([first.circumstances, second.circumstances])
    if varying:
        sides = " and ".join(value_of(pool.circumstances, varying[0]) for pool in (first, second))
        return replace(unmeasured, estimate=replace(unmeasured.estimate, reason=f"{varying[0]} differs: {sides}"))
    one, other = first.values(metric), second.values(metric)
    if one is None or other is None:
        reasons = (without_value(run, metric) for pool in (first, second) for run in pool.runs)
        reason = next((reason for reason in reasons if reason), unmeasured.estimate.reason)
        return replace(unmeasured, estimate=replace(unmeasured.estimate, reason=reason))
    better = first.runs[0].metrics[metric].higher_is_better if metric in first.runs[0].metrics else None
    trials = (float(first.samples), float(second.samples)) if is_proportion(first.runs[0], metric) else None
    estimate = replace(compared(metric, one, other, trials=trials), higher_is_better=better)
    p_value, detectable = estimate.params.get("p_value"), estimate.params.get("detectable")
    return replace(unmeasured, estimate=estimate, p_value=p_value, detectable=detectable)


def adjust(differences: Sequence[Difference]) -> tuple[list[Difference], int]:
    """Holm's adjustment over everything that was tested, and how much that is."""
    corrected = iter(adjusted([p_value for each in differences if (p_value := each.p_value) is not None]))
    results = []
    for each in differences:
        if each.p_value is None:
            results.append(each)
            continue
        p_holm = next(corrected)
        better, value = each.estimate.higher_is_better, each.estimate.value
        stronger = None
        if p_holm <= LEVEL and better is not None and value:
            stronger = each.first if (value > 0) == better else each.second
        results.append(replace(each, p_holm=p_holm, stronger=stronger))
    return results, sum(each.p_value is not None for each in results)


def untested(
    target: str, block: Sequence[Pool], reference: str | None, tests: Sequence[tuple[Pool, Pool]]
) -> list[str]:
    """Clauses on rows of a target that no test reaches."""
    if len(block) == 1:
        return [f"target {target} has one row only: there is nothing to test it against"]
    if reference == FLOOR:
        reached = {id(pool) for pair in tests for pool in pair}
        alone = [pool.label for pool in block if not pool.floor and id(pool) not in reached]
        return [f"target {target}: the floor of {', '.join(alone)} is not among the runs"] if alone else []
    return [] if tests else [f"target {target}: there is no row {reference!r} to test against"]


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'dmmia'?`` or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def testable(infos: Mapping[str, MetricInfo], requested: Sequence[str]) -> tuple[str, ...]:
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
