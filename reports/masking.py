"""Signs that a defence hides gradients rather than information, for the rows of a matrix of defences.

An attack that follows gradients fails where they are hidden, whatever a classifier leaks. Each check looks for a trace
of that beside the undefended twin. A sign is a warning, no verdict on the defence; no sign proves nothing.

An attack that transfers what it found with another network's gradients takes no part: what it gets out of the twin is
the twin's, however well the defence works. (The victim judges adversarial examples; it does not judge reconstructions.)

Source: Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 3.1
(black-box attacks do better than white-box ones); the other checks' thresholds are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mibench.api import Estimate, MetricInfo
from mibench.results import (
    adjusted,
    bounds_text,
    compared,
    gradients_of_another,
    own_loss_fell,
    white_box,
    without_value,
)

from .rows import Pool
from .significance import LEVEL, difference
from .table_model import Kind, value_text

NORM, COSINE, FLAT = "log_gradient_norm_public", "gradient_cosine", "flat_confident"  # metrics of the attacked model
OWN_LOSS = ("loss", "L_ce", "L_id")  # names of the curve of an attack's identity loss
DECADES = -6.0  # gradient norm of the twin's, as a power of ten
LEAST_COSINE = 0.5
LEAST_SHARE = 0.5  # of reconstructions where a loss is flat, and of people for whom it fell: ours
CHECKS = ("black box", "gradient norm", "cosine", "flat loss", "own loss")
MEASURE = "its runs lack the metrics: mibench score RUN --metric gradients"
NO_TWIN = "its undefended twin is not among the runs"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One sign, looked for in one row.

    Attributes:
        name: as a verdict has it.
        sign: whether it shows; None: not measured.
        text: the numbers in words, or what is missing.
        estimates: name -> number behind it, differences with their intervals.
        p_value, p_holm: of a black box; adjusted for all such tests of the matrix.
    """

    name: str
    sign: bool | None
    text: str
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    p_value: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What was looked for in one row, and the verdict: ``no sign``, ``sign: ...`` or ``not measured``.

    ``no sign (3 of 5)``: of five checks only three could be made.
    """

    verdict: str
    checks: tuple[Check, ...]


def look_for_masking(
    rows: Mapping[str, Sequence[Pool]], references: Mapping[str, str], checked: Sequence[str], info: MetricInfo | None
) -> tuple[dict[str, Masking], int]:
    """Check some rows, and say how many tests Holm's adjustment covers.

    Args:
        rows: target -> its pools.
        references: target -> that of its undefended twin.
        checked: the targets to check.
        info: the metric that black boxes are compared in; None: there is none that has a better direction.
    """
    found: dict[str, list[Check]] = {}
    wanted = {*checked, *(references[target] for target in checked if target in references)}
    own = {target: [pool for pool in rows[target] if not _takes_no_part(pool)] for target in wanted}
    fell = {target: _fell(pools) for target, pools in own.items()}
    for target in checked:
        pools, twin = own[target], references.get(target)
        twins = None if twin is None else {pool.label: pool for pool in own[twin]}
        loss = _own_loss(fell[target], None if twin is None else fell[twin])
        found[target] = [*_black_boxes(pools, twins, info), *_gradients(pools, twins), loss]
    tested = [check for checks in found.values() for check in checks if check.p_value is not None]
    corrected = iter(adjusted([check.p_value for check in tested if check.p_value is not None]))
    return {
        target: _judged([check if check.p_value is None else _decided(check, next(corrected)) for check in checks])
        for target, checks in found.items()
    }, len(tested)


def masking_notes(masking: Mapping[str, Masking], family: int) -> Iterator[str]:
    """Sentences below a table, by the labels of its rows: what the signs are, those that show, and what is missing."""
    tests = f"Holm over {family} such tests, 5 %" if family else "no such test was made"
    yield (
        "Masking: signs that a defence hides gradients rather than information. Black box: it gets more than the white "
        "box of the same attack, and by more than on the twin (paired over identities; the larger p of both, "
        f"{tests}). Gradient norm: at most 1e-6 of the twin's. Cosine: of two gradients at one image, "
        "below 0.5. Flat loss: confidence above 0.999 with a gradient norm below 1e-6 at half the reconstructions, and "
        "more often than on the twin. Own loss: it falls for fewer than half the people, other than on the "
        "twin. In brackets: how many checks were made. No sign is no proof."
    )
    for label, each in masking.items():
        if signs := [f"{check.name}: {check.text}" for check in each.checks if check.sign]:
            yield f"WARNING, {label} shows signs of masking: {'; '.join(signs)}."
    missing: dict[str, dict[str, list[str]]] = {}
    for label, each in masking.items():
        for check in each.checks:
            if check.sign is None:
                missing.setdefault(check.text, {}).setdefault(label, []).append(check.name)
    for reason, lacking in missing.items():
        alike: dict[str, list[str]] = {}
        for label, names in lacking.items():
            alike.setdefault(", ".join(dict.fromkeys(names)), []).append(label)
        cells = "; ".join(
            f"{names} of {'every defence' if len(labels) == len(masking) > 1 else ', '.join(labels)}"
            for names, labels in alike.items()
        )
        yield f"Masking not measured, {reason}: {cells}."


def _judged(checks: Sequence[Check]) -> Masking:
    signs = list(dict.fromkeys(check.name for check in checks if check.sign))
    made = {check.name for check in checks if check.sign is not None}
    if signs:
        verdict = f"sign: {', '.join(signs)}"
    elif not made:
        verdict = "not measured"
    else:
        verdict = "no sign" if len(made) == len(CHECKS) else f"no sign ({len(made)} of {len(CHECKS)})"
    return Masking(verdict=verdict, checks=tuple(checks))


def _takes_no_part(pool: Pool) -> bool:
    return pool.floor or gradients_of_another(pool.runs[0])


# ---------------------------------------------------------------- black boxes


def _black_boxes(pools: Sequence[Pool], twins: Mapping[str, Pool] | None, info: MetricInfo | None) -> Iterator[Check]:
    """A check for every attack without gradients beside its white box, or one that says that there is none."""
    pairs = [(pool, white) for pool in pools if (white := _white_box(pool, pools, info)) is not None]
    for black, white in pairs:
        yield _black_box(black, white, twins, info)
    if not pairs:
        yield Check(name="black box", sign=None, text="no attack ran as black box and as white box")


def _white_box(black: Pool, pools: Sequence[Pool], info: MetricInfo | None) -> Pool | None:
    """The row that does the same with gradients; of several the one that gets most, which makes a sign less likely."""
    name = white_box(black.runs[0])
    alike = [pool for pool in pools if pool.runs[0].attack == name]

    def leakage(pool: Pool) -> float:
        values = None if info is None else pool.values(info.name)
        return -float("inf") if values is None or info is None else _sign(info) * float(values.mean())

    return max(alike, key=leakage, default=None)


def _black_box(black: Pool, white: Pool, twins: Mapping[str, Pool] | None, info: MetricInfo | None) -> Check:
    """Whether the black box gets more than the white box, and by more than on the twin; not adjusted yet.

    Both have to hold, so that p is the larger of two (an intersection-union test). On a classifier that leaks less both
    attacks get less and come closer: a difference of differences above 0 is no sign by itself.
    """
    missing = Check(name="black box", sign=None, text="no metric with a direction was asked for")
    if info is None:
        return missing
    gap = difference(black, white, info.name)
    if gap.p_value is None:
        return replace(missing, text=gap.estimate.reason or "there is one identity")
    if twins is None:
        return replace(missing, text=NO_TWIN)
    if absent := [pool.label for pool in (black, white) if pool.label not in twins]:
        return replace(missing, text=f"the twin has no finished run of {', '.join(absent)}")
    on_twin = difference(twins[black.label], twins[white.label], info.name)
    across = difference(black, twins[black.label], info.name)  # whether the four share their circumstances
    series = [pool.values(info.name) for pool in (black, white, twins[black.label], twins[white.label])]
    known = [values for values in series if values is not None]
    if on_twin.p_value is None or across.p_value is None or len(known) < len(series):
        return replace(missing, text=on_twin.estimate.reason or across.estimate.reason or "a run has no values")
    excess = compared("excess", known[0] - known[1], known[2] - known[3])
    estimates = {"gap": gap.estimate, "gap on the twin": on_twin.estimate, "difference of differences": excess}
    amounts = [_amount(info, estimate) for estimate in estimates.values()]
    return replace(
        missing,
        sign=False,
        text=f"{black.label} − {white.label} {amounts[0]}, on the twin {amounts[1]}, difference of both {amounts[2]}",
        estimates=estimates,
        p_value=max(gap.p_value, float(excess.params["p_value"])),
    )


def _decided(check: Check, p_holm: float) -> Check:
    """A black box after the adjustment: differences that count are those in favour of the black box."""
    deciding = [each for name, each in check.estimates.items() if name != "gap on the twin"]
    better = check.estimates["gap"].higher_is_better
    ahead = all((float(each.value or 0) > 0) if better else (float(each.value or 0) < 0) for each in deciding)
    return replace(
        check,
        p_holm=p_holm,
        sign=p_holm <= LEVEL and ahead,
        text=f"{check.text}, p (Holm) {value_text('p', p_holm)}",
    )


def _sign(info: MetricInfo) -> int:
    return 1 if info.higher_is_better else -1


def _amount(info: MetricInfo, estimate: Estimate) -> str:
    kind: Kind = "points" if info.percent else "number"
    bounds = bounds_text(estimate.low, estimate.high, percent=info.percent)
    return f"{value_text(kind, float(estimate.value or 0))} {bounds}".rstrip()


# ---------------------------------------------------------------- gradients, and the attacks' own loss


def _gradients(pools: Sequence[Pool], twins: Mapping[str, Pool] | None) -> Iterator[Check]:
    yield _norm(pools, None if twins is None else list(twins.values()))
    mine = _first(pools, COSINE)
    if mine is None:
        yield Check(name="cosine", sign=None, text=_why(pools, COSINE))
    else:
        value = mine.values(COSINE)
        cosine = float("nan") if value is None else float(value.mean())
        yield Check(
            name="cosine",
            sign=cosine < LEAST_COSINE,
            text=f"{cosine:.2f}".replace("-0.00", "0.00"),
            estimates=_estimates(mine, COSINE),
        )
    yield _flat(pools, twins)


def _norm(pools: Sequence[Pool], others: Sequence[Pool] | None) -> Check:
    missing = Check(name="gradient norm", sign=None, text=NO_TWIN)
    if others is None:
        return missing
    mine, twin = _first(pools, NORM), _first(others, NORM)
    if mine is None or twin is None:
        return replace(missing, text=_why(pools if mine is None else others, NORM))
    estimate = difference(mine, twin, NORM).estimate
    if estimate.value is None:
        return replace(missing, text=estimate.reason or "a run has no values")
    text = f"{10**estimate.value:.2g} times the twin's"
    return replace(missing, sign=estimate.value <= DECADES, text=text, estimates={"decades": estimate})


def _flat(pools: Sequence[Pool], twins: Mapping[str, Pool] | None) -> Check:
    """The attack at whose reconstructions the loss is flat most often."""
    missing = Check(name="flat loss", sign=None, text=NO_TWIN)
    if twins is None:
        return missing
    known = {pool.label: float(values.mean()) for pool in pools if (values := pool.values(FLAT)) is not None}
    if not known:
        return replace(missing, text=_why(pools, FLAT))
    both = {label: share for label, share in known.items() if label in twins and twins[label].values(FLAT) is not None}
    if not both:
        return replace(missing, text=_why(list(twins.values()), FLAT))
    label = max(both, key=lambda label: both[label])
    mine = next(pool for pool in pools if pool.label == label)
    more = difference(mine, twins[label], FLAT).estimate
    if more.value is None:
        return replace(missing, text=more.reason or "a run has no values")
    sign = both[label] >= LEAST_SHARE and more.low is not None and more.low > 0
    text = f"at {100 * both[label]:.0f} % of the reconstructions of {label}"
    return replace(missing, sign=sign, text=text, estimates={**_estimates(mine, FLAT), "more than on the twin": more})


def _own_loss(mine: Mapping[str, float], twin: Mapping[str, float] | None) -> Check:
    """The attack whose own loss fell for the fewest people, of those whose loss fell on the twin."""
    missing = Check(name="own loss", sign=None, text=NO_TWIN)
    if twin is None:
        return missing
    known = {label: share for label, share in mine.items() if twin.get(label, 0.0) >= LEAST_SHARE}
    if not known:
        return replace(missing, text="no attack logged a loss that fell on the twin")
    label = min(known, key=lambda label: known[label])
    text = f"that of {label} fell for {100 * known[label]:.0f} % of the people"
    estimate = Estimate(name="own_loss_fell", value=known[label])
    return replace(missing, sign=known[label] < LEAST_SHARE, text=text, estimates={"fell": estimate})


def _fell(pools: Sequence[Pool]) -> dict[str, float]:
    """Label -> share of people for whom the attack's own loss fell, mean over runs; without those that logged none."""
    shares = {pool.label: [own_loss_fell(run, OWN_LOSS) for run in pool.runs] for pool in pools}
    known = {label: [share for share in each if share is not None] for label, each in shares.items()}
    return {label: sum(each) / len(each) for label, each in known.items() if each and len(each) == len(shares[label])}


def _first(pools: Sequence[Pool], metric: str) -> Pool | None:
    """A row that has a metric of the attacked model, which is the same in all of them."""
    return next((pool for pool in pools if pool.values(metric) is not None), None)


def _estimates(pool: Pool, metric: str) -> dict[str, Estimate]:
    return {metric: pool.runs[0].metrics[metric]} if metric in pool.runs[0].metrics else {}


def _why(pools: Sequence[Pool], metric: str) -> str:
    reasons = (without_value(run, metric) for pool in pools for run in pool.runs)
    return next((reason for reason in reasons if reason), MEASURE)
