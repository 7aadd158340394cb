"""Whether a classifier passes: tests against a margin, paired over identities, and one verdict over all of them.

For each attack and metric, with "more" in the direction of leaking more:

- *passes* where the increase is shown to be below the margin (one-sided test at the stated confidence). All tests have
  to pass, so none is adjusted: the chance of passing a classifier that leaks more than allowed somewhere is at most
  1 - confidence (Berger, Technometrics 24 (1982), 295-300);
- *fails* where there is an increase (one-sided, Holm's adjustment over all tests) and the estimate is above the margin;
- is *undecided* otherwise, or where the numbers cannot carry a decision.

Trainings of one recipe leak differently. Of several accepted classifiers each test takes the one that leaks most: what
is asked is whether the new one leaks more than any that was accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mibench.api import MibenchError
from mibench.reports.significance import suggest
from mibench.results import Increase, adjusted

from .baseline import Baseline, GateRow, Values
from .doubts import amount, doubts, paired_increase
from .utility import Utility, utility_of
from .verdicts import EXIT_CODES, Reason, Verdict

Pair = tuple[GateRow, GateRow]
USUAL = "acc1"
MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class GateTest:
    """One attack in one metric.

    Attributes:
        attack, metric: label of the row and name of the metric; ``title`` and ``percent`` are the metric's.
        against: card of the accepted classifier that it is compared with.
        old, new: mean over identities, of the baseline and now.
        increase, lower, upper: towards leaking more, with its one-sided bounds.
        margin: the allowed increase.
        p_more: of "there is no increase", adjusted by Holm. p_within: of "the increase is at least the margin".
        detectable: the smallest true increase that such a test sees in 80 % of cases; None where it sees nothing.
        identities: how many were paired. needed: how many would probably decide; None where no number is known to.
    """

    attack: str
    metric: str
    title: str
    against: str
    margin: float
    verdict: Verdict
    reasons: tuple[Reason, ...]
    percent: bool = False
    old: float | None = None
    new: float | None = None
    increase: float | None = None
    lower: float | None = None
    upper: float | None = None
    p_more: float | None = None
    p_within: float | None = None
    detectable: float | None = None
    identities: int = 0
    needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The outcome.

    Attributes:
        verdict: the worst of all parts: fail, else undecided, else pass.
        target: card of the classifier at the gate. baselines: cards of those that it is compared with.
        confidence: of the one-sided tests.
        seeds: of the attacks, now and in the baselines together.
        circumstances: what both have in common, such as protocol and judge.
    """

    verdict: Verdict
    target: str
    baselines: tuple[str, ...]
    confidence: float
    tests: tuple[GateTest, ...]
    utility: Utility
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    circumstances: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """0 passes, 1 fails, 3 undecided."""
        return EXIT_CODES[self.verdict]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Of every part."""
        return (*self.utility.reasons, *(reason for test in self.tests for reason in test.reasons))


def decide(
    new: Baseline,
    accepted: Sequence[Baseline],
    *,
    margins: Mapping[str, float] | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    confidence: float = 0.95,
    attacks: Sequence[str] = (),
) -> Gate:
    """Test a classifier against a baseline.

    Args:
        new: what attacks got out of the classifier.
        accepted: what they got out of those it is compared with, at least one.
        margins: metric -> allowed increase in the metric's own unit (0.05 of a share is 5 points), at least one;
            ``acc1`` by 0.05 by default. The increase of a metric where lower is better for the attack is its decrease.
        min_accuracy: least test accuracy in [0, 1]. max_drop: how far it may lie below the lowest of the accepted.
        confidence: of the tests, in (0.5, 1).
        attacks: labels or names of the rows to test; empty: all of the first baseline.

    Raises:
        MibenchError: another protocol, data set, judge, prior or attack than a baseline's; an unknown metric.
    """
    margins = dict(margins or {USUAL: MARGIN})
    for name, margin in margins.items():
        if not 0 < margin < float("inf"):
            raise MibenchError(
                f"the allowed increase of {name} must be above 0, got {margin:g}",
                cure="no test can show that nothing has changed: allow what would not matter",
            )
    if not 0.5 < confidence < 1:
        raise MibenchError(f"the confidence must lie between 0.5 and 1, got {confidence:g}")
    for what, bound in (("least test accuracy", min_accuracy), ("allowed drop of the test accuracy", max_drop)):
        if bound is not None and not 0 <= bound <= 1:  # a number that is none passes everything otherwise
            raise MibenchError(f"the {what} is a share from 0 to 1, got {bound:g}", cure="write 0.95 for 95 %")
    if not accepted:
        raise MibenchError("there is no baseline", cure="name a file of mibench gate --update-baseline")
    pairs = _pairs(new, accepted[0], attacks)
    labels = [other.label for _, other in pairs]
    rivals = [pairs, *(_pairs(new, old, labels) for old in accepted[1:])]
    _check_metrics(margins, [pair for one in rivals for pair in one])
    compared = [
        _most_leaking(new, list(zip(accepted, candidates, strict=True)), metric)
        for candidates in zip(*rivals, strict=True)
        for metric in margins
    ]
    p_more = adjusted([one.increase.p_above() for one in compared if isinstance(one, _Compared)])
    adjusted_p = iter(p_more)
    tests = []
    for one in compared:
        margin = margins[one.metric]
        if isinstance(one, _Compared):
            tests.append(_test(one, margin, confidence, next(adjusted_p)))
        else:
            tests.append(_missing(one, margin))
    utility = utility_of(new, accepted, min_accuracy, max_drop)
    verdicts: list[Verdict] = [utility.verdict, *(test.verdict for test in tests)]
    order: tuple[Verdict, ...] = ("fail", "undecided", "pass")
    return Gate(
        verdict=min(verdicts, key=order.index),
        target=new.target,
        baselines=tuple(old.target for old in accepted),
        confidence=confidence,
        tests=tuple(tests),
        utility=utility,
        seeds=(pairs[0][0].seeds, tuple(sorted({seed for one in rivals for seed in one[0][1].seeds}))),
        circumstances=pairs[0][0].circumstances,
    )


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A metric of an attack beside the accepted classifier that leaks most by it."""

    row: GateRow
    metric: str
    against: str
    increase: Increase
    values: Values
    floors: tuple[GateRow | None, GateRow | None]


@dataclass(frozen=True, kw_only=True)
class _Missing:
    """A metric of an attack without a value on one side, and why."""

    row: GateRow
    metric: str
    against: str
    why: str


def _most_leaking(new: Baseline, candidates: Sequence[tuple[Baseline, Pair]], metric: str) -> _Compared | _Missing:
    """One row beside the accepted one with the largest mean, towards leaking more; missing where one has no value."""
    compared = []
    for old, (row, other) in candidates:
        paired = paired_increase(row, other, metric)
        if isinstance(paired, str):
            return _Missing(row=row, metric=metric, against=old.target, why=paired)
        increase, values = paired
        floors = new.floor_of(row), old.floor_of(other)
        compared.append(
            _Compared(row=row, metric=metric, against=old.target, increase=increase, values=values, floors=floors)
        )
    return max(compared, key=lambda one: sum(one.increase.old) / len(one.increase.old))


def _pairs(new: Baseline, old: Baseline, attacks: Sequence[str]) -> list[Pair]:
    """Rows of both that are the same attack under the same circumstances."""
    wanted = list(old.attacks)
    if attacks:
        known = list(dict.fromkeys(name for row in old.attacks for name in (row.label, row.attack)))
        for name in attacks:
            if name not in known:
                raise MibenchError(
                    f"the baseline has no attack {name!r}{suggest(name, known)} (it has {', '.join(known)})",
                    cure="attack the old target with it, and update the baseline: mibench gate --update-baseline",
                )
        wanted = [row for row in old.attacks if row.label in attacks or row.attack in attacks]
    if not wanted:
        raise MibenchError("the baseline has no attack", cure="run one, and make the baseline again")
    pairs = []
    for other in wanted:
        candidates = [row for row in new.attacks if row.attack == other.attack]
        if not candidates:
            raise MibenchError(
                f"the runs have no {other.label}, which the baseline has",
                cure=f"run it against {new.target}, or choose attacks with --attack",
            )
        same = [row for row in candidates if row.made_with == other.made_with]
        if not same:
            raise MibenchError(
                f"{other.label} is another attack than the baseline's: {_differing(candidates[0], other)}",
                cure="make the baseline again with the old target: mibench gate --update-baseline",
            )
        for name in dict.fromkeys([*other.circumstances, *same[0].circumstances]):
            before, now = other.circumstances.get(name, "null"), same[0].circumstances.get(name, "null")
            if before != now and not name.startswith("definition of"):
                raise MibenchError(
                    f"{name} differs: {before} in the baseline, {now} now",
                    cure="attack under the protocol, data and judge of the baseline, or make the baseline again",
                )
        pairs.append((same[0], other))
    return pairs


def _differing(row: GateRow, other: GateRow) -> str:
    """What is not the same about two rows of one attack, in words."""
    for key in ("settings", "prior"):
        now, before = row.made_with.get(key), other.made_with.get(key)
        if now == before:
            continue
        if isinstance(now, dict) and isinstance(before, dict):
            names = [name for name in sorted({*now, *before}) if now.get(name) != before.get(name)]
            sides = f"{before.get(names[0])!r} in the baseline, {now.get(names[0])!r} now"
            return f"{key} differ in {names[0]} ({sides})"
        return f"its {key} differs"
    if row.made_with.get("precision") != other.made_with.get("precision"):
        return f"precision {other.made_with.get('precision')} in the baseline, {row.made_with.get('precision')} now"
    return "its code has changed"


def _check_metrics(margins: Mapping[str, float], pairs: Sequence[Pair]) -> None:
    known = list(dict.fromkeys(name for pair in pairs for row in pair for name in (*row.metrics, *row.without_value)))
    for name, margin in margins.items():
        if name not in known:
            raise MibenchError(
                f"{name!r} is no metric with a value for each identity{suggest(name, known)} (known: "
                f"{', '.join(known)})"
            )
        rows = [row.metrics[name] for pair in pairs for row in pair if name in row.metrics]
        if margin >= 1 and any(values.percent for values in rows):
            raise MibenchError(
                f"the allowed increase of {name} is a share below 1, got {margin:g}", cure="write 0.05 for 5 points"
            )


def _test(compared: _Compared, margin: float, confidence: float, p_more: float) -> GateTest:
    row, metric, increase, values = compared.row, compared.metric, compared.increase, compared.values
    p_within = increase.p_below(margin)
    upper, detectable = increase.upper(confidence), increase.detectable(confidence)
    needed = increase.identities_needed(margin, confidence)
    sign = 1.0 if values.higher_is_better else -1.0
    before = sum(increase.old) / len(increase.old)
    reasons: list[Reason] = []
    verdict: Verdict
    if increase.mean > margin and p_more <= 1 - confidence:
        verdict = "fail"
        reasons.append(Reason(code="leaks_more", text=f"{row.label} gets more out of it than is allowed"))
    else:
        decided = p_within <= 1 - confidence
        reasons += doubts(row, metric, values, margin, before, compared.floors)
        if not decided:
            near = needed is None or needed <= len(increase.new)
            many = "" if needed is None else f"; about {needed} identities would decide in 80 % of cases"
            text = f"an increase of {amount(margin, values)} is not ruled out with {len(increase.new)} identities{many}"
            reasons.append(Reason(code="near_margin" if near else "margin_not_seen", text=text))
        verdict = "undecided" if reasons else "pass"
    return GateTest(
        attack=row.label,
        metric=metric,
        title=values.title,
        against=compared.against,
        percent=values.percent,
        old=sign * before,
        new=sign * (before + increase.mean),
        increase=increase.mean,
        lower=increase.lower(confidence),
        upper=upper,
        margin=margin,
        p_more=p_more,
        p_within=p_within,
        detectable=detectable,
        identities=len(increase.new),
        needed=needed,
        verdict=verdict,
        reasons=tuple(reasons),
    )


def _missing(missing: _Missing, margin: float) -> GateTest:
    return GateTest(
        attack=missing.row.label,
        metric=missing.metric,
        title=missing.metric,
        against=missing.against,
        margin=margin,
        verdict="undecided",
        reasons=(Reason(code="metric_missing", text=missing.why),),
    )
