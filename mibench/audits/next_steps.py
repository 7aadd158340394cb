"""What to do after an audit, in order: measure better, then defend, then give out less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mibench import registry
from mibench.api import Access, AnswerFilter, Attack, Defence
from mibench.errors import MibenchError

from .data import FEW_PUBLIC
from .verdicts import FEW_PEOPLE, WEAK_JUDGE, Decision

StepCode = Literal[
    "run_attack", "attack_longer", "train_judge", "more_people", "defend", "filter_answers", "less_access",
    "other_attack", "better_prior",
]  # fmt: skip
GUIDE = "docs/defences.md"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A thing to do: a code for programs, a sentence for people."""

    code: StepCode
    text: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What an audit had to work with.

    Attributes:
        granted: what the attack could ask of the model.
        own_judge: the judge was trained here.
        people: in the data; ``public``: public images.
    """

    granted: Access
    own_judge: bool
    people: int
    public: int


def next_steps(decision: Decision, situation: Situation) -> tuple[Step, ...]:
    """What to do, the first thing first."""
    return tuple(_steps(decision, situation))


def _steps(decision: Decision, situation: Situation) -> Iterator[Step]:
    numbers = decision.numbers
    others = [name for name in _attacks(situation.granted) if name != numbers.attack.partition(":")[0]]
    if decision.has("attack_missing"):
        text = f"run an attack: --attack NAME ({', '.join(others)})"
        if not others:
            text = f"install an attack that makes do with {situation.granted.word}, or audit with more --access"
        yield Step(code="run_attack", text=text)
    if decision.has("attack_weak"):
        text = "attack longer (leave --set attack.* out)"
        text += f", or with another attack ({', '.join(others)})" if others else ""
        yield Step(code="attack_longer", text=text)
    if numbers.judge is None or numbers.judge < WEAK_JUDGE:
        better = (
            "train the judge longer (--set judge_training.epochs=N), on more images of each person, or name a --judge"
            if situation.own_judge
            else "name another --judge, or none: one is trained on your images then"
        )
        yield Step(code="train_judge", text=better)
    if decision.has("people_few", "margin_not_seen", "cannot_rise"):
        yield Step(code="more_people", text=_more_people(decision, situation))
    if decision.verdict == "leaks":
        yield from _defences(situation.granted)
    elif decision.verdict == "not_seen" and others:
        text = f"try other attacks before you rely on it: --attack NAME ({', '.join(others)})"
        yield Step(code="other_attack", text=text)
    if decision.verdict != "leaks" and situation.public < FEW_PUBLIC:
        text = f"take a better prior: {situation.public:,} public images are few; give more, or a published --prior"
        yield Step(code="better_prior", text=text)


def _more_people(decision: Decision, situation: Situation) -> str:
    attacked = decision.numbers.people
    wanted = max(decision.needed or FEW_PEOPLE, FEW_PEOPLE)
    if decision.has("cannot_rise"):
        return (
            "put more people into the data: the fewer it has, the more often the prior alone is taken for one of them"
        )
    if wanted <= attacked:
        return "attack more people (--identities N), or make more reconstructions of each (--set protocol.samples=N)"
    if wanted <= situation.people:
        return f"attack more people: --identities {wanted}"
    return (
        f"put more people into the data: it has {situation.people:,}, about {wanted:,} would decide; more "
        "reconstructions of each (--set protocol.samples=N) help a little"
    )


def _defences(granted: Access) -> Iterator[Step]:
    training, filters = _offered(granted)
    if training:
        text = f"train the model with a defence and audit it again: {', '.join(training)} ({GUIDE})"
        yield Step(code="defend", text=text)
    if filters:
        text = f"or filter its answers: {', '.join(filters)}; who can average or search may still get through ({GUIDE})"
        yield Step(code="filter_answers", text=text)
    less = {
        Access.GRADIENTS: "do not give out the weights: --access scores measures what scores alone leak",
        Access.SCORES: "answer labels only: --access labels measures what these leak",
        Access.LABELS: "limit the number of queries: --set protocol.query_budget=N measures what N a person leak",
    }[granted]
    yield Step(code="less_access", text=less)


def _offered(granted: Access) -> tuple[list[str], list[str]]:
    """Registered defences: those of a training, and filters where answers are all that the adversary gets.

    Controls and what changes nothing are left out, and so is a defence that cannot be loaded here.
    """
    training, filters = [], []
    for name in registry.names("defence"):
        try:
            kind: type[Defence] = registry.load("defence", name)
        except MibenchError:
            continue
        if issubclass(kind, AnswerFilter):
            if granted is Access.SCORES:  # with gradients nobody meets a filter, and labels are all that is left of one
                filters.append(name)
        elif not kind.control and not _does_nothing(kind):
            training.append(name)
    return training, filters


def _does_nothing(kind: type[Defence]) -> bool:
    return kind.hooks is Defence.hooks and kind.architecture is Defence.architecture


def _attacks(granted: Access) -> list[str]:
    """Attacks that may run and are more than the floor."""
    kinds: dict[str, type[Attack]] = {name: registry.load("attack", name) for name in registry.names("attack")}
    baseline = registry.role("baseline")
    return [
        name for name, kind in kinds.items() if kind.access <= granted and name != baseline and not kind.needs_portraits
    ]
