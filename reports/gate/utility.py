"""Whether the classifier is still good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .baseline import Baseline
from .verdicts import Reason, Verdict


@dataclass(frozen=True, kw_only=True)
class Utility:
    """Test accuracy now and of the baseline (the lowest of several), in [0, 1], and its bounds (None: no bound)."""

    old: float | None
    new: float | None
    minimum: float | None
    max_drop: float | None
    verdict: Verdict
    reasons: tuple[Reason, ...]


def utility_of(new: Baseline, accepted: Sequence[Baseline], minimum: float | None, max_drop: float | None) -> Utility:
    """Test accuracy against its bounds."""
    old = min(accepted, key=lambda one: -1.0 if one.test_accuracy is None else one.test_accuracy)
    reasons: list[Reason] = []
    unknown = (minimum is not None and new.test_accuracy is None) or (
        max_drop is not None and None in (new.test_accuracy, old.test_accuracy)
    )
    if unknown:
        whose = new.target if new.test_accuracy is None else f"{old.target}, the baseline"
        text = f"the test accuracy of {whose} is not on its card, so that its bound cannot be checked"
        reasons.append(Reason(code="accuracy_unknown", text=text))
    if new.test_accuracy is not None:
        if minimum is not None and new.test_accuracy < minimum:
            text = f"test accuracy {100 * new.test_accuracy:.1f} % is below {100 * minimum:.1f} %"
            reasons.append(Reason(code="accuracy_below_minimum", text=text))
        if max_drop is not None and old.test_accuracy is not None and old.test_accuracy - new.test_accuracy > max_drop:
            drop = 100 * (old.test_accuracy - new.test_accuracy)
            text = f"test accuracy fell by {drop:.1f} points, {100 * max_drop:.1f} are allowed"
            reasons.append(Reason(code="accuracy_dropped", text=text))
    failed = any(reason.code != "accuracy_unknown" for reason in reasons)
    return Utility(
        old=old.test_accuracy,
        new=new.test_accuracy,
        minimum=minimum,
        max_drop=max_drop,
        verdict="fail" if failed else "undecided" if reasons else "pass",
        reasons=tuple(reasons),
    )
