"""What an audit found, in numbers and in plain words: what they mean, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mibench import registry
from mibench.api import Access, Estimate
from mibench.metrics.estimates import null
from mibench.metrics.scoring import estimate_as_json
from mibench.results import StoredRun, difference, interval_text
from mibench.system.canonical import JsonObject, plain
from mibench.version import __version__
from mibench.weights.minimum_accuracy import percent

from .data import FEW_PUBLIC, AuditData
from .exposure import PersonExposure, exposure_lines, exposure_of
from .judge_and_prior import AuxiliaryModel
from .next_steps import Situation, Step, next_steps
from .request import AuditRequest
from .target import AuditTarget
from .verdicts import FEW_PEOPLE, THRESHOLDS, WEAK_JUDGE, Decision, Numbers, decide

SCHEMA = 2
LIMITS_PAGE = "docs/auditing.md#limits"
ROWS = (  # whose accuracy, title
    ("acc1", "reconstructions of the attack"),
    ("floor", "draws of the prior without it (floor)"),
    ("control_nearest_public_acc1", "nearest public images (control)"),
    ("control_private_test_acc1", "their own held-out images"),
    ("judge_false_acceptance_private", "held-out images of other people (false acceptance)"),
    ("judge_false_acceptance_foreign", "public images of anybody (false acceptance)"),
)


@dataclass(frozen=True)
class Findings:
    """The verdict, what to do next, the numbers, the people most exposed, and sentences for a person."""

    decision: Decision
    steps: tuple[Step, ...]
    facts: JsonObject
    exposed: tuple[PersonExposure, ...]
    means: tuple[str, ...]
    limits: tuple[str, ...]

    def as_json(self) -> JsonObject:
        """The content of audit.json; ``docs/audit-files.md`` is its schema."""
        return {
            "schema": SCHEMA,
            "mibench": __version__,
            "verdict": self.decision.verdict,
            "reasons": [asdict(reason) for reason in self.decision.reasons],
            "needed_people": self.decision.needed,
            "thresholds": dict(THRESHOLDS),
            "next_steps": [asdict(step) for step in self.steps],
            **self.facts,
            "exposed": [asdict(person) for person in self.exposed],
            "means": list(self.means),
            "limits": list(self.limits),
        }

    def lines(self) -> list[str]:
        """For a terminal, the verdict first."""
        facts = self.facts
        lines = self.decision.lines()
        if self.steps:
            lines += ["", "what to do next:"]
            lines += [f"  {number}. {step.text}" for number, step in enumerate(self.steps, start=1)]
        lines += ["", *_what_was_done(facts)]
        lines += ["", "recognised as the target identity by the judge, 95 % intervals over people:"]
        shown = [(title, facts["recognised"][name]) for name, title in ROWS if name in facts["recognised"]]
        width = max(len(title) for title, _ in shown)
        lines += [f"  {title:{width}}  {_interval(number)}" for title, number in shown]
        if self.exposed:
            title = f"most exposed, of {len(self.exposed):,} people (intervals over their reconstructions):"
            lines += ["", title, *exposure_lines(self.exposed)]
        lines += ["", "what it means:", *(f"  - {sentence}" for sentence in self.means)]
        return [*lines, "", f"limits: {'; '.join(self.limits)} ({LIMITS_PAGE})"]


def _what_was_done(facts: JsonObject) -> list[str]:
    """Model, judge, prior and attack, a line each."""
    model, judge, attack = facts["model"], facts["judge"], facts["attack"]
    right, ours = "held-out images right", {True: ", trained here", False: ""}
    reached = f"{percent(model['accuracy']['test'])} of {model['accuracy']['test_images']:,} {right}"
    judged = f"{_percent(judge['accuracy'])} of {judge['images'] or '?'} {right}"
    attacked = _some(attack["identities"], facts["data"]["people"])
    people = f"{attacked} people, {attack['samples']} reconstructions each"
    rows = (
        ("model", f"{model['source']}: {reached} (chance {percent(model['chance'])})"),
        ("judge", f"{judge['card']}: {judged}{ours[judge['trained_here']]}"),
        ("prior", f"{facts['prior']['card']}{ours[facts['prior']['trained_here']]}"),
        ("attack", f"{attack['name']} with {attack['access']} on {people}"),
    )
    lines = [f"{name:8}{text}" for name, text in rows]
    lines[1:1] = [f"{'':8}{note}" for note in model["notes"]]
    return lines


def findings_of(
    request: AuditRequest,
    material: AuditData,
    attacked: AuditTarget,
    granted: Access,
    judge: AuxiliaryModel,
    prior: AuxiliaryModel,
    run: StoredRun,
) -> Findings:
    """Read a finished run."""
    card = attacked.file.card()
    people = material.counts["people"]
    attack, protocol = run.attack_title, run.specification["protocol"]
    is_floor = run.attack == registry.role("baseline")
    measured = {name: run.metrics[name] for name, _ in ROWS if name in run.metrics}
    measured.setdefault("acc1", null("acc1", "it was not measured"))
    against = null("difference_hit1", "the run is its own floor" if is_floor else "its floor is not beside it")
    if run.floor is not None:
        measured["floor"] = run.floor.metrics.get("acc1") or null("acc1", "it was not measured")
        against = difference(run, run.floor)
    recognised = {name: estimate_as_json(estimate) for name, estimate in measured.items()}
    facts = {
        "model": {
            "source": request.model,
            "card": attacked.file.name,
            "weights_sha256": card.weights.sha256,
            "arguments": plain(card.arguments),
            "image": plain(card.image),
            "accuracy": attacked.accuracy.as_json(),
            "chance": 1 / people,
            "access": granted.word,
            "gives": attacked.access.word,
            "notes": list(attacked.notes),
        },
        "data": {
            "name": request.dataset,
            "digest": material.dataset.digest,
            **material.counts,
            "held_out_by": "the owner" if material.owners_test else "mibench",
        },
        "judge": {
            "card": judge.file.name,
            "weights_sha256": judge.file.card().weights.sha256,
            "accuracy": judge.accuracy,
            "images": judge.images,
            "trained_here": judge.own,
        },
        "prior": {
            "card": prior.file.name,
            "weights_sha256": prior.file.card().weights.sha256,
            "trained_here": prior.own,
        },
        "attack": {
            "name": attack,
            "access": granted.word,
            "identities": protocol["identities"],
            "samples": protocol["samples"],
            "protocol": run.protocol,
            "seed": run.seed,
            "queries": _queries(run),
            "run": run.path.name,
            "floor": None if run.floor is None else run.floor.path.name,
        },
        "recognised": recognised,
        "difference_to_floor": estimate_as_json(against),
    }
    decision = decide(
        Numbers(
            attack=attack,
            floor_only=is_floor,
            accuracy=measured["acc1"],
            difference=against,
            floor=measured["floor"].value if "floor" in measured else None,
            ceiling=_value(run, "control_private_test_acc1"),
            judge=judge.accuracy,
            own_success=_value(run, "target_acc1"),
            people=protocol["identities"],
        )
    )
    situation = Situation(granted=granted, own_judge=judge.own, people=people, public=material.counts["public"])
    weak = judge.accuracy is None or judge.accuracy < WEAK_JUDGE
    leak = [*_leak(attack, granted, recognised, against, people, weak), *_likeness(recognised)]
    scale = _judge(judge, recognised)
    return Findings(
        decision,
        next_steps(decision, situation),
        facts,
        exposure_of(run, material.dataset),
        means=tuple([*scale, *leak] if weak else [*leak, *scale]),
        limits=tuple(_limits(material, judge, protocol["identities"])),
    )


def _value(run: StoredRun, name: str) -> float | None:
    estimate = run.metrics.get(name)
    return None if estimate is None else estimate.value


def _queries(run: StoredRun) -> JsonObject:
    """Images shown to the model for each person, and the most that the protocol allows (None: no limit)."""
    cost = run.cost()
    return {
        "limit": run.specification["protocol"].get("query_budget"),
        "forward": cost["identity"]["queries_forward"],
        "backward": cost["identity"]["queries_backward"],
        "prior": cost["prior"]["queries_forward"],
    }


def _leak(
    attack: str,
    granted: Access,
    recognised: Mapping[str, JsonObject],
    against: Estimate,
    people: int,
    weak: bool,
) -> list[str]:
    accuracy, chance = recognised["acc1"], 1 / people
    if accuracy["value"] is None:
        return [f"nothing can be said: {accuracy['reason']}"]
    level = [f"only attacks that make do with {granted.word} could run"] if granted < Access.GRADIENTS else []
    if against.value is None:  # the run is a floor itself, or they do not compare
        more = accuracy["low"] is not None and accuracy["low"] > chance
        liked = "gives their label most steadily" if granted < Access.SCORES else "scores highest"
        sentence = (
            f"no optimisation ran: of what the prior draws, the images that the model {liked} are recognised as "
            f"the target identity in {accuracy['value']:.1%}"
        )
        ending = "more often than chance" if more else "which chance alone can explain"
        return [f"{sentence}, {ending} ({percent(chance)})", *level]
    points, low, high = (
        f"{100 * v:+.1f}" if v is not None else "?" for v in (against.value, against.low, against.high)
    )
    if against.low is not None and against.low > 0:
        return [
            f"the model leaks: with {granted.word}, {attack} makes images that are recognised as the "
            f"target identity {points} points [{low}, {high}] more often than what the prior gives without it"
        ]
    if weak:
        return [
            f"no leak beyond the prior was seen ({attack} differs from the floor by {points} points [{low}, {high}]), "
            "and with this judge that says nothing",
            *level,
        ]
    unseen = against.params.get("detectable")
    power = f"; a difference below {100 * unseen:.0f} points would mostly have gone unseen" if unseen else ""
    return [
        f"no leak beyond the prior was seen: {attack} differs from the floor by {points} points [{low}, {high}]{power}",
        *level,
    ]


def _likeness(recognised: Mapping[str, JsonObject]) -> list[str]:
    control, accuracy = recognised.get("control_nearest_public_acc1"), recognised["acc1"]
    if control is None or control["value"] is None or accuracy["value"] is None or control["value"] < accuracy["value"]:
        return []
    return [
        f"public images picked for their likeness are recognised as the target identity in {control['value']:.1%}, "
        "which the attack does not exceed: a face of somebody else can look as much like them to this judge"
    ]


def _judge(judge: AuxiliaryModel, recognised: Mapping[str, JsonObject]) -> list[str]:
    most = recognised.get("control_private_test_acc1")
    if judge.accuracy is None:
        return ["nothing is known of the judge's accuracy, so its verdicts cannot be trusted"]
    sentences = _errors(recognised)
    if judge.accuracy < WEAK_JUDGE:
        sentences.append(
            f"the judge is weak ({judge.accuracy:.1%} on held-out images, {WEAK_JUDGE:.0%} is the least to rely on): "
            "it misses people, so the numbers are too low; give more images of each person, or a better --judge"
        )
    if most is not None and most["value"] is not None:
        sentences.append(f"a perfect attack would reach about {most['value']:.1%} with this judge: that is the scale")
    return sentences


def _errors(recognised: Mapping[str, JsonObject]) -> list[str]:
    """How far the judge can be believed, where both kinds of error were counted."""
    own, liked = (recognised.get(f"control_{control}_acc1") for control in ("private_test", "nearest_public"))
    if own is None or own["value"] is None or liked is None or liked["value"] is None:
        return []
    return [
        f"the judge is wrong, too: it misses {1 - own['value']:.1%} of real held-out images, and takes "
        f"{liked['value']:.1%} of the most similar public images, which show somebody else, for the person"
    ]


def _limits(material: AuditData, judge: AuxiliaryModel, identities: int) -> list[str]:
    sentences = [
        "another attack, a better prior or more queries may find what this one did not",
        "what the judge takes for a person need not look like them to people",
    ]
    if judge.own:
        sentences.append("trained on the same images, the judge may reward background and camera")
    if not material.owners_test:
        sentences.append(
            "held-out images were set apart by file name: if the model was trained on them, its accuracy flatters it "
            "(a train/ and a test/ folder say which are which)"
        )
    if material.counts["public"] < FEW_PUBLIC:
        sentences.append(f"{material.counts['public']:,} public images make a poor prior")
    if identities < material.counts["people"]:
        sentences.append(
            f"{_some(identities, material.counts['people'])} people were attacked, in the order of classes; nothing is "
            "known of the others"
        )
    if identities < FEW_PEOPLE:
        sentences.append(f"{identities} people are few")
    return sentences


def _some(identities: int, people: int) -> str:
    return f"{identities:,}" + (f" of {people:,}" if identities < people else "")


def _percent(value: float | None) -> str:
    return "unknown" if value is None else percent(value)


def _interval(number: JsonObject) -> str:
    if number["value"] is None:
        return f"none: {number['reason']}"
    return interval_text(number["value"], number.get("low"), number.get("high"), percent=True)
