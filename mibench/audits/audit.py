"""An audit from beginning to end. Every step leaves something that the same command finds again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mibench import registry
from mibench.api import Access, Attack
from mibench.errors import MibenchError
from mibench.results import StoredRun
from mibench.runs import compatibility
from mibench.runs.attack import Execution
from mibench.runs.compatibility import access_error
from mibench.runs.draft import Draft, read_draft
from mibench.runs.plan import prior_arguments
from mibench.runs.request import RunRequest
from mibench.runs.run import run_request
from mibench.system.devices import choose_device
from mibench.system.files import atomic_write, check_writable, write_json
from mibench.system.paths import home
from mibench.system.progress import Reporter
from mibench.system.turns import computing
from mibench.weights.minimum_accuracy import percent

from .data import AuditData, read_material
from .evidence import AUDIT as FILE
from .evidence import EVIDENCE, evidence_of
from .evidence_page import PAGE as EVIDENCE_PAGE
from .evidence_page import evidence_page
from .exposure import FILE as EXPOSURE
from .exposure import exposure_csv
from .findings import Findings, findings_of
from .judge_and_prior import AuxiliaryModel, ModelPlan, judge_of, plan_judge, plan_prior, prior_of
from .request import AuditRequest
from .target import AuditTarget, take_in
from .verdicts import AuditVerdict, FailOn

PROTOCOL = "audit"


@dataclass(frozen=True)
class Audit:
    """A finished audit; ``audit.json``, ``exposure.csv`` and the evidence lie in the folder of its run."""

    run: StoredRun
    attacked: AuditTarget
    judge: AuxiliaryModel
    prior: AuxiliaryModel
    findings: Findings

    @property
    def path(self) -> Path:
        """``audit.json``."""
        return self.run.path / FILE

    @property
    def verdict(self) -> AuditVerdict:
        """``leaks``, ``not_seen`` or ``undecided``."""
        return self.findings.decision.verdict

    def exit_code(self, fail_on: FailOn | None) -> int:
        """0; with ``leak`` 1 where it leaks; with ``undecided`` 3 where nothing is decided as well."""
        return self.findings.decision.exit_code(fail_on)


def audit(request: AuditRequest, out: Path, *, device: str = "auto", reporter: Reporter | None = None) -> Audit:
    """What a model leaks: data, model, sanity, judge, prior, attack with its floor, verdict.

    Raises:
        MibenchError: a mistake in the input, or a model that does no better than chance; one line, and nothing of the
            step that failed is written.
    """
    reporter = reporter or Reporter()
    with computing(reporter):
        return _audited(request, out, device, reporter)


def _audited(request: AuditRequest, out: Path, device: str, reporter: Reporter) -> Audit:
    chosen = choose_device(device)
    if request.attack is not None:
        _refuse_control(
            registry.attack_entry(request.attack)[0].load()
        )  # a slip is refused before anything is measured
    check_writable(out, *(home() / name for name in ("cards", "weights", "training")))
    material = read_material(request)
    for line in (material.summary, *material.unused):
        reporter.say(line)
    _draft(request, material, request.attack)
    judge_plan = plan_judge(request, material)
    attacked = take_in(request, material, chosen, reporter)
    granted = min(request.wanted_access, attacked.access)
    attack = _attack(request, granted, attacked, reporter)
    draft = _draft(request, material, request.attack or attack.name)
    prior_plan = plan_prior(request, attack, material, attacked.file, device)
    _check_prior(prior_plan, draft, attacked)
    judge = judge_of(judge_plan, material, device, reporter)
    if judge.accuracy is not None:
        reporter.say(f"judge: {percent(judge.accuracy)} of {judge.images:,} held-out images right")
    prior = prior_of(prior_plan, device, reporter)
    run = run_request(
        RunRequest(
            attack=request.attack or attack.name,
            target=attacked.file.name,
            dataset=request.dataset,
            protocol=PROTOCOL,
            prior=prior.file.name,
            judge=judge.file.name,
            seed=request.seed,
            min_accuracy=0.0,  # the model was measured when it was taken in; the verdict weighs the judge
            settings={
                "attack": request.settings_of("attack"),
                "dataset": material.settings,
                "prior": request.settings_of("prior"),
                "protocol": {**_protocol(request, material), **_access(request)},
            },
        ),
        out,
        Execution(chosen, reporter=reporter),
        unused=False,  # the audit has said it
    )
    findings = findings_of(request, material, attacked, granted, judge, prior, run)
    content = findings.as_json()
    evidence = evidence_of(content, request, run, attacked.fault, reporter)
    atomic_write(run.path / EXPOSURE, exposure_csv(findings.exposed).encode())
    write_json(run.path / EVIDENCE, evidence)
    atomic_write(run.path / EVIDENCE_PAGE, evidence_page(evidence).encode())
    write_json(run.path / FILE, content)  # last: where it is, the others are
    return Audit(run, attacked, judge, prior, findings)


def _draft(request: AuditRequest, material: AuditData, attack: str | None) -> Draft:
    """What of the run and its floor can be known before anything is trained; without an attack, its protocol.

    Raises:
        MibenchError: all that the run itself would refuse once judge and prior are there: its protocol, its metrics,
            its settings, its budget.
    """
    settings = {
        "attack": request.settings_of("attack") if attack is not None else {},
        "prior": request.settings_of("prior"),
    }
    draft = read_draft(
        RunRequest(
            attack=attack or registry.role("baseline"),
            target=request.model,  # its card has no name yet, and a draft looks for none
            dataset=request.dataset,
            protocol=PROTOCOL,
            seed=request.seed,
            settings={**settings, "protocol": _protocol(request, material)},
        )
    ).settled(material.dataset)
    draft.floor()
    return draft


def _check_prior(plan: ModelPlan, draft: Draft, attacked: AuditTarget) -> None:
    """Refuse a prior that the run would refuse, and settings of it."""
    if plan.card is not None:
        compatibility.check_prior(draft.attack, plan.card.card(), attacked.file.card())
    if plan.arguments is not None:
        prior_arguments(plan.name, plan.architecture, plan.arguments, draft)


def _protocol(request: AuditRequest, material: AuditData) -> dict[str, object]:
    """The settings of the protocol."""
    return {**request.settings_of("protocol"), **_identities(request, material)}


def _refuse_control(named: type[Attack]) -> None:
    if named.needs_portraits:
        raise MibenchError(
            f"{named.name} is no attack: it sees images of the private people, so what it makes says nothing of a leak",
            cure="audit with an attack, and see this control by mibench run",
        )


def _attack(request: AuditRequest, granted: Access, attacked: AuditTarget, reporter: Reporter) -> type[Attack]:
    """The attack that was named, else the strongest that may run."""
    if request.attack is not None:
        named: type[Attack] = registry.attack_entry(request.attack)[0].load()
        if named.access > granted:
            because = f"this audit has {granted.word} of {attacked.file.name}"
            if attacked.fault is not None and request.wanted_access is Access.GRADIENTS:
                because += f", which gives no usable gradient: {attacked.fault}"
            raise access_error(named, granted, because)
        return named
    kinds: dict[str, type[Attack]] = {name: registry.load("attack", name) for name in registry.names("attack")}
    possible = {name: kind for name, kind in kinds.items() if kind.access <= granted and not kind.needs_portraits}
    if not possible:
        raise MibenchError(f"no installed attack makes do with {granted.word}", cure="install one that does")
    preferred = (*(registry.role(part) for part in ("strongest", "strongest_by_scores", "baseline")), *possible)
    name = next(name for name in preferred if name is not None and name in possible)
    others = ", ".join(other for other in possible if other != name)
    reporter.say(f"attack: none named, so {name}" + (f" (possible, too: {others})" if others else ""))
    return possible[name]


def _identities(request: AuditRequest, material: AuditData) -> dict[str, int | None]:
    if request.identities is None:
        return {}
    people = material.counts["people"]
    if not 1 <= request.identities <= people:
        raise MibenchError(f"--identities must lie between 1 and {people}, the people of the data")
    return {"identities": request.identities, "at_most": None}


def _access(request: AuditRequest) -> dict[str, str]:
    return {} if request.access in (None, "gradients") else {"access": str(request.access)}
