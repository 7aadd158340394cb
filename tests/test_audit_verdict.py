"""The verdict of an audit, from constructed numbers: nothing is trained here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from documented_keys import DOCS

from mibench import registry
from mibench.api import Access, AnswerFilter, Estimate
from mibench.audits.next_steps import Situation, StepCode, next_steps
from mibench.audits.verdicts import (
    EXIT_CODES,
    FEW_PEOPLE,
    MARGIN,
    THRESHOLDS,
    AuditReasonCode,
    Decision,
    FailOn,
    Numbers,
    decide,
)
from mibench.metrics import estimates
from mibench.metrics.estimates import detectable_difference, null
from mibench.reports.gate import verdicts as gate_verdicts

PEOPLE, SAMPLES = 50, 16


def difference(first: list[float], second: list[float]) -> Estimate:
    """As an audit has it: paired shares over people."""
    trials = float(len(first) * SAMPLES)
    return estimates.compared("difference_hit1", first, second, trials=(trials, trials))


def accuracy(values: list[float]) -> Estimate:
    return estimates.mean("acc1", values, list(range(len(values))), proportion=True, trials=len(values) * SAMPLES)


def numbers(
    attack: float = 0.3, floor: float = 0.3, *, people: int = PEOPLE, spread: float = 0.1, **more: Any
) -> Numbers:
    """People who differ by ``spread`` around the means of attack and floor."""
    away = spread * np.resize([1.0, -1.0], people)
    first, second = (attack + away).clip(0, 1).tolist(), (floor - away).clip(0, 1).tolist()
    given: dict[str, Any] = {
        "attack": "mine",
        "floor_only": False,
        "accuracy": accuracy(first),
        "difference": difference(first, second),
        "floor": float(np.mean(second)),
        "ceiling": 0.95,
        "judge": 0.95,
        "own_success": 0.9,
        "people": people,
    }
    return Numbers(**given | more)


ABSENT = null("difference_hit1", "the run is its own floor")
CASES: dict[str, tuple[Numbers, str, set[str]]] = {
    "a leak": (numbers(0.6, 0.2), "leaks", {"leaks"}),
    "a leak in spite of a weak judge": (numbers(0.6, 0.2, judge=0.3), "leaks", {"leaks"}),
    "a leak with few people": (numbers(0.6, 0.2, people=8), "leaks", {"leaks"}),
    "a leak by an attack that the model hardly accepts": (numbers(0.6, 0.2, own_success=0.1), "leaks", {"leaks"}),
    "nothing": (numbers(), "not_seen", {"not_seen"}),
    "less than the floor": (numbers(0.1, 0.4), "not_seen", {"not_seen"}),
    "a weak judge": (numbers(judge=0.79), "undecided", {"judge_weak"}),
    "an unknown judge": (numbers(judge=None), "undecided", {"judge_weak"}),
    "few people": (numbers(people=9, spread=0.01), "undecided", {"people_few"}),
    "people who differ": (numbers(spread=0.29), "undecided", {"margin_not_seen"}),
    "few people who differ": (numbers(0.6, 0.4, people=4), "undecided", {"people_few", "margin_not_seen"}),
    "nobody is recognised, of many": (numbers(0.0, 0.0, spread=0.0, people=100), "not_seen", {"not_seen"}),
    "nobody is recognised, of few": (numbers(0.0, 0.0, spread=0.0, people=10), "undecided", {"margin_not_seen"}),
    "the prior alone is as good as real images": (numbers(0.9, 0.9, spread=0.01), "undecided", {"cannot_rise"}),
    "the model itself does not know them": (numbers(own_success=0.49), "undecided", {"attack_weak"}),
    "the floor": (numbers(floor_only=True, difference=ABSENT), "undecided", {"attack_missing"}),
    "no difference": (numbers(difference=null("d", "they differ")), "undecided", {"metric_missing"}),
    "no accuracy": (numbers(accuracy=null("acc1", "no judge")), "undecided", {"metric_missing"}),
    "one person": (numbers(people=1, spread=0.0), "undecided", {"people_few", "margin_not_seen"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_follows_from_the_numbers(name: str) -> None:
    given, verdict, codes = CASES[name]
    decision = decide(given)
    assert decision.verdict == verdict
    assert {reason.code for reason in decision.reasons} == codes
    assert all(reason.text for reason in decision.reasons)
    symbol = {"leaks": "LEAKS", "not_seen": "NOT SEEN", "undecided": "UNDECIDED"}[verdict]
    assert decision.lines()[0].startswith(f"{symbol} mine: acc@1 ")
    assert decision.lines()[1:] == [f"  {reason.text}" for reason in decision.reasons if verdict == "undecided"]


def test_every_reason_is_reached_and_every_code_documented() -> None:
    assert {code for _, _, codes in CASES.values() for code in codes} == set(get_args(AuditReasonCode))
    if not DOCS.is_dir():
        pytest.skip("needs a checkout")
    pages = "".join((DOCS / name).read_text() for name in ("auditing.md", "audit-files.md"))
    codes = {*get_args(AuditReasonCode), *get_args(StepCode), *THRESHOLDS, *EXIT_CODES}
    assert not {code for code in codes if f"`{code}`" not in pages}


def test_words_that_a_gate_has_too_are_the_same() -> None:
    shared = set(get_args(AuditReasonCode)) & set(get_args(gate_verdicts.ReasonCode))
    assert shared == {"judge_weak", "margin_not_seen", "cannot_rise", "metric_missing"}
    assert EXIT_CODES["undecided"] == gate_verdicts.EXIT_CODES["undecided"]
    assert EXIT_CODES["leaks"] == gate_verdicts.EXIT_CODES["fail"]


def test_the_first_line_has_the_number_that_decides() -> None:
    estimate = Estimate("d", 0.391, 0.242, 0.562, 8, params={"p_value": 0.0078, "detectable": 0.201})
    line = decide(replace(numbers(), difference=estimate)).lines()[0]
    assert line == (
        "LEAKS mine: acc@1 +39.1 points [+24.2, +56.2] against the floor; p 0.008, n 8; 20.1 points could"
        " have been seen"
    )
    alone = decide(CASES["the floor"][0]).lines()[0]
    assert alone == "UNDECIDED mine: acc@1 30.0 %, with nothing to compare it with"


@pytest.mark.parametrize("spread", [0.3, 0.45])
def test_the_named_number_of_people_would_decide(spread: float) -> None:
    decision = decide(numbers(0.5, 0.5, spread=spread / 2, people=20))
    assert decision.needed is not None
    assert str(decision.needed) in decision.reasons[-1].text
    unit = np.resize([1.0, -1.0], 20)
    deviation = float((spread * unit).std(ddof=1))
    for people, visible in ((decision.needed, True), (decision.needed - 1, False)):
        pattern = np.resize([1.0, -1.0], people)
        found = detectable_difference(deviation * pattern / pattern.std(ddof=1))
        assert found is not None
        assert (found <= MARGIN) == visible
    assert decide(numbers()).needed is None


@pytest.mark.parametrize(
    ("name", "codes"),
    [("a leak", (0, 1, 1)), ("nothing", (0, 0, 0)), ("a weak judge", (0, 0, 3)), ("the floor", (0, 0, 3))],
)
def test_exit_codes(name: str, codes: tuple[int, ...]) -> None:
    decision = decide(CASES[name][0])
    fail_on: tuple[FailOn | None, ...] = (None, "leak", "undecided")
    assert tuple(decision.exit_code(when) for when in fail_on) == codes


def steps(name: str, granted: Access = Access.GRADIENTS, **more: Any) -> dict[str, str]:
    situation = Situation(**{"granted": granted, "own_judge": True, "people": PEOPLE, "public": 5000} | more)
    return {step.code: step.text for step in next_steps(decide(CASES[name][0]), situation)}


def test_a_leak_is_followed_by_defences_and_less_access() -> None:
    by_gradients, by_scores, by_labels = (steps("a leak", access) for access in reversed(Access))
    assert list(by_gradients) == ["defend", "less_access"]
    assert list(by_scores) == ["defend", "filter_answers", "less_access"]
    assert list(by_labels) == ["defend", "less_access"]
    assert list(steps("a leak in spite of a weak judge")) == ["train_judge", "defend", "less_access"]
    named = set(by_scores["defend"].split(": ")[1].split(" (")[0].split(", "))
    kinds = {name: registry.load("defence", name) for name in registry.names("defence")}
    controls = {name for name, kind in kinds.items() if kind.control}
    filters = {name for name, kind in kinds.items() if issubclass(kind, AnswerFilter)}
    assert controls
    assert named == set(kinds) - controls - filters - {"none"}
    assert all(name in by_scores["filter_answers"] for name in filters)


def test_what_is_undecided_is_followed_by_what_would_decide() -> None:
    assert list(steps("a weak judge")) == ["train_judge"]
    assert "--judge" in steps("a weak judge", own_judge=False)["train_judge"]
    needed = decide(CASES["people who differ"][0]).needed
    assert needed is not None
    assert needed > PEOPLE
    assert f"--identities {needed}" in steps("people who differ", people=5000)["more_people"]
    assert "put more people into the data" in steps("people who differ")["more_people"]
    assert f"--identities {FEW_PEOPLE}" in steps("few people")["more_people"]
    assert list(steps("the floor")) == ["run_attack"]
    offered = steps("the floor", Access.LABELS)["run_attack"].partition("--attack NAME (")[2].rstrip(")").split(", ")
    assert "brep" in offered
    assert not {"floor", "ppa", "mirror-b"} & set(offered), "no attack, or one that labels are not enough for"
    assert list(steps("the model itself does not know them")) == ["attack_longer"]
    assert list(steps("nothing", public=20)) == ["other_attack", "better_prior"]


def test_a_decision_is_complete() -> None:
    decision = decide(numbers())
    assert isinstance(decision, Decision)
    assert decision.has("not_seen")
    assert not decision.has("leaks", "judge_weak")
