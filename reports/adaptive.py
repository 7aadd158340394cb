"""Attacks that know of a defence, in a matrix of defences: the strongest of them in each row, beside the twin.

Such an attack is a variant, ``ATTACK:VARIANT``. Variants are no columns of the matrix, and their tests are a family of
their own, so that a suite with many of them makes no other test harder to pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mibench.api import Estimate, MetricInfo
from mibench.results import StoredRun

from .comparison import Row
from .pooled_rows import row_of
from .rows import Pool
from .significance import LEVEL, Difference, adjust, difference


@dataclass(frozen=True, kw_only=True)
class AdaptiveAttack:
    """A variant of an attack on one row, in one metric.

    Attributes:
        result: its results, seeds pooled.
        reference: the twin's row that it is compared with; None where there is none.
        difference: to it, paired over identities; None where there is none.
        p_value, p_holm: two-sided, of the sign-flip test; adjusted for every such test of the matrix.
        detectable: the smallest true difference that one such test at 5 % finds in 80 % of cases.
        from_twin: whether it followed the gradients of the row's undefended twin: what it gets is mostly the twin's.
    """

    label: str
    metric: str
    result: Row
    reference: str | None = None
    difference: Estimate | None = None
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    from_twin: bool = False

    @property
    def estimate(self) -> Estimate:
        """The leakage."""
        return self.result.estimates[self.metric]

    @property
    def stands_out(self) -> bool:
        """Whether the difference is not chance: ``p_holm`` is at most 0.05."""
        return self.p_holm is not None and self.p_holm <= LEVEL


def is_variant(pool: Pool) -> bool:
    """Whether the runs of a row are of a variant."""
    return pool.runs[0].specification.get("variant") is not None


def without_variants(rows: Mapping[str, Sequence[Pool]]) -> dict[str, list[Pool]]:
    """Target -> the pools that are columns: all but variants, or all where there is nothing else."""
    ordinary = {target: [pool for pool in pools if not is_variant(pool)] for target, pools in rows.items()}
    if any(not pool.floor for pools in ordinary.values() for pool in pools):
        return ordinary
    return {target: list(pools) for target, pools in rows.items()}


def adaptive_attacks(
    rows: Mapping[str, Sequence[Pool]], references: Mapping[str, str], infos: Mapping[str, MetricInfo]
) -> tuple[dict[str, tuple[AdaptiveAttack, ...]], int]:
    """Every variant on every row, tested against its twin, and how many tests Holm's adjustment covers.

    Args:
        rows: target -> all of its pools.
        references: target -> that of its undefended twin.
        infos: metrics to test.
    """
    columns = without_variants(rows)
    found: list[tuple[str, Pool, str, Pool | None]] = []
    for target, pools in rows.items():
        twins = rows.get(references.get(target, ""), ())
        found += [
            (target, pool, metric, _on_the_twin(pool, twins))
            for pool in pools
            if pool not in columns[target]
            for metric in infos
            if metric in pool.runs[0].metrics
        ]
    tests, family = adjust([difference(pool, twin, metric) for _, pool, metric, twin in found if twin is not None])
    tested = iter(tests)
    results: dict[str, list[AdaptiveAttack]] = {target: [] for target in rows}
    for target, pool, metric, twin in found:
        test: Difference | None = None if twin is None else next(tested)
        results[target].append(
            AdaptiveAttack(
                label=pool.label,
                metric=metric,
                result=row_of(pool, infos),
                reference=None if test is None else test.second,
                difference=None if test is None else test.estimate,
                p_value=None if test is None else test.p_value,
                p_holm=None if test is None else test.p_holm,
                detectable=None if test is None else test.detectable,
                from_twin=_from_twin(pool.runs[0]),
            )
        )
    return {target: tuple(attacks) for target, attacks in results.items()}, family


def strongest(attacks: Sequence[AdaptiveAttack], metric: str) -> AdaptiveAttack | None:
    """The variant that gets most by its estimate; None without any, or for a metric without a better direction.

    One that follows the twin's gradients does not compete: the twin saw the private images, and what its gradients find
    is no leak of the defended classifier.
    """
    own = [each for each in attacks if each.metric == metric and not each.from_twin]
    known = [each for each in own if each.estimate.value is not None]
    if not known or (better := known[0].estimate.higher_is_better) is None:
        return None
    return max(known, key=lambda each: (1 if better else -1) * float(each.estimate.value or 0))


def _from_twin(run: StoredRun) -> bool:
    surrogate, defence = run.specification.get("surrogate"), run.attacked.get("defence")
    if not isinstance(surrogate, dict) or not isinstance(defence, dict):
        return False
    return surrogate.get("sha256") == defence.get("twin_sha256")


def _on_the_twin(pool: Pool, twins: Sequence[Pool]) -> Pool | None:
    """The twin's row of the same attack; of one that follows the twin's gradients, the attack without a surrogate.

    On the twin itself both are the same: the gradients that it follows are its victim's.
    """
    run = pool.runs[0]
    surrogate = run.specification.get("surrogate")
    if not isinstance(surrogate, dict):
        return next((twin for twin in twins if twin.label == pool.label), None)
    alike = [twin for twin in twins if surrogate.get("sha256") == _target_hash(twin.runs[0])]
    return next((twin for twin in alike if twin.runs[0].attack == run.attack and _one_setting_less(run, twin)), None)


def _target_hash(run: StoredRun) -> object:
    target = run.specification.get("target")
    return target.get("sha256") if isinstance(target, dict) else None


def _one_setting_less(run: StoredRun, twin: Pool) -> bool:
    """Whether the twin's runs had every setting of ``run`` but the one that names the surrogate."""
    settings, others = (dict(each.specification.get("attack_settings") or {}) for each in (run, twin.runs[0]))
    return len(settings) == len(others) + 1 and all(settings.get(name) == value for name, value in others.items())
