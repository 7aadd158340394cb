"""Paired increases, and why numbers that look fine do not show that nothing more leaks."""

from __future__ import annotations

from mibench.results import Increase

from .baseline import GateRow, Values
from .verdicts import Reason

WEAK_JUDGE = 0.8  # a judge that knows less of the real private images says little about reconstructions
FLOOR_LEVEL = 0.01


def paired_increase(row: GateRow, other: GateRow, metric: str) -> tuple[Increase, Values] | str:
    """The paired increase, or why there is none."""
    now, before = row.metrics.get(metric), other.metrics.get(metric)
    for side, values, of in (("now", now, row), ("in the baseline", before, other)):
        if values is None:
            return f"{metric} has no value {side}: {of.without_value.get(metric, 'it was not measured')}"
    assert now is not None
    assert before is not None
    definition = f"definition of {metric}"
    if row.circumstances.get(definition) != other.circumstances.get(definition):
        return f"{metric} is defined in another way than in the baseline: make the baseline again"
    people = sorted(now.by_identity)
    if people != sorted(before.by_identity):
        return f"{metric} is measured for other identities than in the baseline"
    if len(people) < 2:
        return "one identity cannot be tested"
    sign = 1.0 if now.higher_is_better else -1.0
    trials = (float(row.samples), float(other.samples)) if now.proportion and now.higher_is_better else None
    one, two = ([sign * each.by_identity[label] for label in people] for each in (now, before))
    return Increase(new=one, old=two, trials=trials), now


def doubts(
    row: GateRow,
    metric: str,
    values: Values,
    margin: float,
    before: float,
    floors: tuple[GateRow | None, GateRow | None],
) -> list[Reason]:
    """Why numbers that look fine do not show that nothing more leaks."""
    found = []
    if values.proportion and values.higher_is_better and before > 1 - margin:
        text = (
            f"{values.title} of the baseline is {100 * before:.1f} % and cannot rise by {amount(margin, values)}: "
            "allow less, give the attack a smaller budget, or test another metric as well"
        )
        found.append(Reason(code="cannot_rise", text=text))
    if row.judge is not None and row.judge < WEAK_JUDGE:
        text = f"the judge recognises {100 * row.judge:.0f} % of real private test images: train it longer"
        found.append(Reason(code="judge_weak", text=text))
    now, then = floors
    if now is not None and then is not None and not isinstance(moved := paired_increase(now, then, metric), str):
        increase, _ = moved
        p_moved = min(1.0, 2 * min(increase.p_above(), increase.p_below(0.0)))
        if abs(increase.mean) > margin and p_moved <= FLOOR_LEVEL:
            text = (
                f"the prior alone has moved by {amount(abs(increase.mean), values)}, more than the margin: the change "
                "is not the attack's"
            )
            found.append(Reason(code="floor_moved", text=text))
    return found


def amount(value: float, values: Values) -> str:
    """A difference in the metric's unit."""
    return f"{100 * value:.3g} points" if values.percent else f"{value:.3g}{f' {values.unit}' if values.unit else ''}"
