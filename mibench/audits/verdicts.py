"""The verdict of an audit: LEAKS, NOT SEEN or UNDECIDED, by the paired difference between attack and floor.

A difference whose 95 % interval lies above 0 shows a leak, whatever else is weak: judge, people and prior are the same
on both sides. That no leak was seen says something only where one would have been seen; else nothing is decided.
``docs/auditing.md`` gives the reason for each threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mibench.api import Estimate

AuditVerdict = Literal["leaks", "not_seen", "undecided"]
AuditReasonCode = Literal[
    "leaks",
    "not_seen",
    "metric_missing",
    "attack_missing",
    "attack_weak",
    "judge_weak",
    "people_few",
    "cannot_rise",
    "margin_not_seen",
]
FailOn = Literal["leak", "undecided"]
SYMBOLS: Mapping[AuditVerdict, str] = {"leaks": "LEAKS", "not_seen": "NOT SEEN", "undecided": "UNDECIDED"}
EXIT_CODES: Mapping[AuditVerdict, int] = {"leaks": 1, "not_seen": 0, "undecided": 3}

MARGIN = 0.1  # a leak of this size has to be visible before "not seen" means anything
WEAK_JUDGE = 0.8  # accuracy on held-out images, below which a judge misses too much
FEW_PEOPLE = 10  # below, an interval over people says little
WEAK_ATTACK = 0.5  # share of reconstructions that the attacked model itself accepts, below which the attack has failed
THRESHOLDS: Mapping[str, float | int] = {
    "margin": MARGIN,
    "judge_accuracy": WEAK_JUDGE,
    "people": FEW_PEOPLE,
    "attack_success": WEAK_ATTACK,
}
_LEVEL, _POWER = 0.05, 0.8
_MOST_PEOPLE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class AuditReason:
    """Why a verdict is what it is: a code for programs, a sentence for people."""

    code: AuditReasonCode
    text: str


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What a verdict follows from; shares are in [0, 1], None: not known.

    Attributes:
        attack: its name.
        floor_only: the attack is the floor itself.
        accuracy: acc@1 of the attack.
        difference: acc@1 of the attack minus the floor's, paired over the people.
        floor: acc@1 of the floor.
        ceiling: share of real held-out images that the judge recognises.
        judge: the judge's accuracy on held-out images.
        own_success: share of the reconstructions that the attacked model takes for their person.
        people: how many were attacked.
    """

    attack: str
    floor_only: bool
    accuracy: Estimate
    difference: Estimate
    floor: float | None = None
    ceiling: float | None = None
    judge: float | None = None
    own_success: float | None = None
    people: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict and what it rests on.

    Attributes:
        verdict, reasons: of the audit; at least one reason.
        numbers: the numbers.
        needed: how many people would probably make a leak of :data:`MARGIN` visible; None: enough were attacked, or no
            number is known.
    """

    verdict: AuditVerdict
    reasons: tuple[AuditReason, ...]
    numbers: Numbers
    needed: int | None = None

    def exit_code(self, fail_on: FailOn | None) -> int:
        """0; with ``leak`` 1 for LEAKS; with ``undecided`` 3 for UNDECIDED as well."""
        failing = {None: (), "leak": ("leaks",), "undecided": ("leaks", "undecided")}[fail_on]
        return EXIT_CODES[self.verdict] if self.verdict in failing else 0

    def has(self, *codes: AuditReasonCode) -> bool:
        """Whether one of these is among the reasons."""
        return any(reason.code in codes for reason in self.reasons)

    def lines(self) -> list[str]:
        """For a terminal: the verdict with the number that decides; below, what stands in the way of a decision."""
        lines = [f"{SYMBOLS[self.verdict]} {self.numbers.attack}: {number_that_decides(self.numbers)}"]
        if self.verdict == "undecided":
            lines += [f"  {reason.text}" for reason in self.reasons]
        return lines


def decide(numbers: Numbers) -> Decision:
    """The verdict.

    LEAKS where the interval of the difference lies above 0; NOT SEEN where it does not, although a leak would have been
    seen; UNDECIDED otherwise.
    """
    low = numbers.difference.low
    if low is not None and low > 0:
        text = (
            f"{numbers.attack} is recognised as the target identity {_points(numbers.difference.value)} more often "
            "than what the prior gives without it"
        )
        return Decision(verdict="leaks", reasons=(AuditReason(code="leaks", text=text),), numbers=numbers)
    reasons = list(_doubts(numbers))
    needed = _needed(numbers)
    if reasons:
        return Decision(verdict="undecided", reasons=tuple(reasons), numbers=numbers, needed=needed)
    text = (
        f"{numbers.attack} gets no more out of the model than the prior gives without it; a leak of "
        f"{_points(MARGIN, sign=False)} would mostly have been seen"
    )
    return Decision(verdict="not_seen", reasons=(AuditReason(code="not_seen", text=text),), numbers=numbers)


def number_that_decides(numbers: Numbers) -> str:
    """``acc@1 +39.1 points [+24.2, +56.2] against the floor; p 0.008, n 8; 20.1 points could have been seen``."""
    difference = numbers.difference
    if difference.value is None:
        if numbers.accuracy.value is None:
            return "acc@1 was not measured"
        return f"acc@1 {100 * numbers.accuracy.value:.1f} %, with nothing to compare it with"
    line = f"acc@1 {_points(difference.value)}"
    if difference.low is not None and difference.high is not None:
        line += f" [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    line += " against the floor"
    p_value, detectable = difference.params.get("p_value"), difference.params.get("detectable")
    shown = "" if p_value is None else "p < 0.001, " if p_value < 0.001 else f"p {p_value:.3f}, "
    line += f"; {shown}n {difference.n}"
    if detectable is not None:
        line += f"; {_points(detectable, sign=False)} could have been seen"
    return line


def _doubts(numbers: Numbers) -> list[AuditReason]:
    """Why "not seen" would say nothing."""
    if numbers.accuracy.value is None:
        text = f"acc@1 has no value: {numbers.accuracy.reason or 'it was not measured'}"
        return [AuditReason(code="metric_missing", text=text)]
    doubts = []
    if numbers.floor_only:
        text = "no attack ran: what the prior gives without one is the floor, which has nothing to be compared with"
        doubts.append(AuditReason(code="attack_missing", text=text))
    elif numbers.difference.value is None:
        text = f"the difference to the floor has no value: {numbers.difference.reason or 'it was not measured'}"
        doubts.append(AuditReason(code="metric_missing", text=text))
    elif numbers.own_success is not None and numbers.own_success < WEAK_ATTACK:
        text = (
            f"the attacked model itself accepts {100 * numbers.own_success:.0f} % of the reconstructions: the attack "
            "has failed at its own task"
        )
        doubts.append(AuditReason(code="attack_weak", text=text))
    if numbers.judge is None or numbers.judge < WEAK_JUDGE:
        known = "an unknown share" if numbers.judge is None else f"{100 * numbers.judge:.0f} %"
        text = f"the judge recognises {known} of the held-out images, {100 * WEAK_JUDGE:.0f} % is the least to rely on"
        doubts.append(AuditReason(code="judge_weak", text=text))
    if numbers.people < FEW_PEOPLE:
        text = f"{numbers.people} people were attacked, {FEW_PEOPLE} are the least for an interval over people"
        doubts.append(AuditReason(code="people_few", text=text))
    if numbers.difference.value is None:
        return doubts
    ceiling = 1.0 if numbers.ceiling is None else numbers.ceiling
    if numbers.floor is not None and numbers.floor + MARGIN > ceiling:
        text = (
            f"the prior alone reaches {100 * numbers.floor:.1f} %, real held-out images {100 * ceiling:.1f} %: nothing "
            f"can rise by {_points(MARGIN, sign=False)}"
        )
        doubts.append(AuditReason(code="cannot_rise", text=text))
    unseen = _unseen(numbers.difference)
    if unseen is None or unseen > MARGIN:
        size = "" if unseen is None else f": {_points(unseen, sign=False)} might have gone unseen"
        text = f"a leak of {_points(MARGIN, sign=False)} is not ruled out{size}"
        if (needed := _needed(numbers)) is not None:
            text += f"; about {needed:,} people would decide"
        doubts.append(AuditReason(code="margin_not_seen", text=text))
    return doubts


def _unseen(difference: Estimate) -> float | None:
    """The leak that may have gone unseen: the detectable difference, or the interval's end where nothing varies."""
    detectable = difference.params.get("detectable")
    return difference.high if detectable is None else float(detectable)


def _needed(numbers: Numbers) -> int | None:
    """How many people, varying as these do, make :data:`MARGIN` detectable; None where these do, or nothing varies."""
    from scipy.special import stdtrit

    detectable, n = numbers.difference.params.get("detectable"), numbers.difference.n
    if detectable is None or detectable <= MARGIN or n < 2:
        return None

    def multiplier(people: int) -> float:
        return float(stdtrit(people - 1, 1 - _LEVEL / 2) + stdtrit(people - 1, _POWER)) / math.sqrt(people)

    spread = detectable / multiplier(n)
    least, most = n, n
    while multiplier(most) * spread > MARGIN:
        if most > _MOST_PEOPLE:
            return None
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if multiplier(middle) * spread > MARGIN else (least, middle)
    return max(most, FEW_PEOPLE)


def _points(value: float | None, *, sign: bool = True) -> str:
    if value is None:
        return "an unknown number of points"
    return f"{100 * value:+.1f} points" if sign else f"{100 * value:.3g} points"
