"""The judge and the prior of an audit: those that are named, else trained on the auditor's own images and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mibench import registry
from mibench.api import Attack
from mibench.errors import MibenchError
from mibench.runs import compatibility
from mibench.system.canonical import hash_of, plain
from mibench.system.devices import choose_device
from mibench.system.progress import Reporter
from mibench.weights.accuracy import measure_accuracy
from mibench.weights.cards import CardFile, all_cards
from mibench.weights.cards import find as find_card
from mibench.weights.load import build_classifier_extractor
from mibench.weights.minimum_accuracy import percent
from mibench.weights.prior_class import prior_class
from mibench.weights.training import Training, resolve_training, train

from .data import FEW_PUBLIC, AuditData
from .preprocessing import least_accuracy
from .request import AuditRequest

JUDGE_BATCH = 32
JUDGE_STEPS = 600  # of training on little data: some minutes on two CPU cores
JUDGE_EPOCHS = (10, 60)  # at least, at most
# As the judge of synthfaces was trained: an eighth of the published width learns from a few hundred images, too
JUDGE_SETTINGS: dict[str, object] = {
    "width": 0.125,
    "optimiser": "adamw",
    "learning_rate": 0.003,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "augment": "light",
    "dropout": 0.2,
    "batch_size": JUDGE_BATCH,
}
# As the priors of synthfaces were trained: small networks, minutes on a GPU and below an hour on two CPU cores
PRIOR_SETTINGS: dict[str, dict[str, float]] = {
    "gmi": {"width": 0.25, "average": 0.999, "batch_size": 32, "critic_steps": 2, "steps": 10_000},
    "kedmi": {"width": 0.25, "average": 0.999, "batch_size": 32, "critic_steps": 2, "steps": 10_000},
    "plgmi": {"width": 0.125, "batch_size": 32, "critic_steps": 2, "steps": 2_000},
    "stylegan2": {
        "images": 160_000,
        "channel_base": 1536,
        "channel_max": 128,
        "discriminator_base": 1024,
        "discriminator_max": 96,
    },
}
SMALLEST_PRIOR, LARGEST_PRIOR = 16, 64  # pixels of a stylegan2 trained on the spot


@dataclass(frozen=True)
class AuxiliaryModel:
    """A judge or a prior: its card, whether it was trained for this audit; a judge's accuracy, on how many images."""

    file: CardFile
    own: bool
    accuracy: float | None = None
    images: int | None = None

    @classmethod
    def of(cls, file: CardFile) -> AuxiliaryModel:
        """What was trained here, with the accuracy on its card."""
        measured = file.card().measured or {}
        accuracy, images = measured.get("test_accuracy"), measured.get("test_images")
        return cls(file, True, None if accuracy is None else float(accuracy), None if images is None else int(images))


@dataclass(frozen=True)
class ModelPlan:
    """How a judge or a prior is to be had: ``card``, which is there, or ``training``, which is checked.

    Attributes:
        kind: judge or prior.
        arguments: of the prior, as far as they are known; None: not before it is trained.
        announcement: of the training, a line.
    """

    kind: str
    card: CardFile | None = None
    training: Training | None = None
    arguments: Mapping[str, object] | None = None
    announcement: str = ""

    @property
    def name(self) -> str:
        """Of the card."""
        if self.card is not None:
            return self.card.name
        assert self.training is not None
        return self.training.name

    @property
    def architecture(self) -> str:
        """A registered one of the kind."""
        if self.card is not None:
            return self.card.card().architecture
        assert self.training is not None
        return self.training.architecture


def plan_judge(request: AuditRequest, material: AuditData) -> ModelPlan:
    """The judge that was named, else a training on the private images.

    Raises:
        MibenchError: there is no such judge, it knows another number of people, or a wrong setting.
    """
    if request.judge is not None:
        file, people = find_card("judge", request.judge, request.dataset), material.counts["people"]
        if (classes := file.card().classes) != people:
            raise MibenchError(
                f"--judge {file.name} knows {classes} people, the data has {people}",
                cure="leave it out",
            )
        return _existing_model("judge", file, request)
    count = material.counts["train"]
    least, most = JUDGE_EPOCHS
    epochs = min(max(math.ceil(JUDGE_STEPS / max(count // JUDGE_BATCH, 1)), least), most)
    settings = {**JUDGE_SETTINGS, "epochs": epochs, "batch_size": min(JUDGE_BATCH, max(count // 2, 2))}
    settings |= request.settings_of("judge_training")
    if (architecture := registry.role("default_judge")) is None:
        raise MibenchError("no installed package declares a judge to train", cure="name one with --judge")
    announcement = (
        f"judge: none named, so {architecture} is trained on the {count:,} private images, {settings['epochs']} epochs"
    )
    return _training("judge", architecture, settings, request, material, None, announcement)


def judge_of(plan: ModelPlan, material: AuditData, device: str, reporter: Reporter) -> AuxiliaryModel:
    """The judge: trained, or measured on the images of this audit.

    Raises:
        MibenchError: a judge from elsewhere that knows other people.
    """
    if plan.card is None:
        return _trained(plan, device, reporter)
    file, people = plan.card, material.counts["people"]
    test = material.dataset.private("test", file.card().image.size)
    chosen = choose_device(device)
    classifier = build_classifier_extractor(file, chosen, None)
    share = measure_accuracy(classifier, test, device=chosen, reporter=reporter).value
    if share < least_accuracy(people):
        raise MibenchError(
            f"--judge {file.name} gets {percent(share)} of the {len(test):,} held-out images right (chance "
            f"{percent(1 / people)}): it knows other people, or these in another order",
            cure="leave it out and one is trained",
        )
    return AuxiliaryModel(file, False, share, len(test))


def prior_name(request: AuditRequest, attack: type[Attack]) -> str:
    """The architecture (or card) of the prior: named, else the attack's own, else what the attack works on."""
    if request.prior is not None:
        return request.prior
    name = attack.prior or registry.role("default_mapping_prior" if attack.needs_mapping else "default_prior")
    if name is None:
        raise MibenchError("no installed package declares a prior to train", cure="name one with --prior")
    return name


def plan_prior(
    request: AuditRequest, attack: type[Attack], material: AuditData, target: CardFile, device: str
) -> ModelPlan:
    """The prior that was named and exists, else a training on the public images.

    Raises:
        MibenchError: a name that is no prior, one that the attack cannot use, or a wrong setting.
    """
    name = prior_name(request, attack)
    if "@" in name or "+" in name:
        file = find_card("prior", name, request.dataset)
        compatibility.check_data("prior", file.card(), material.dataset)
        return _existing_model("prior", file, request)
    per_target = prior_class(name).per_target
    compatibility.check_mapping(attack, name, name)
    count = material.counts["public"]
    settings: dict[str, object] = {**PRIOR_SETTINGS.get(name, {})}
    if name == "stylegan2":
        size = target.card().image.size
        settings["resolution"] = min(max(2 ** math.floor(math.log2(size)), SMALLEST_PRIOR), LARGEST_PRIOR)
    settings |= request.settings_of("prior_training")
    announcement = f"prior: none named, so {name} is trained on the {count:,} public images"
    length = next((length for length in ("steps", "images") if length in settings), None)
    against = target if per_target else None
    plan = _training("prior", name, settings, request, material, against, announcement)
    if length is not None and isinstance(planned := settings[length], int | float):
        announcement += f", {planned:,} {length}"
        if planned >= PRIOR_SETTINGS.get(name, {}).get(length, 1) and choose_device(device).type == "cpu":
            announcement += f" (hours on a CPU; --set prior_training.{length}=N for fewer, which is worse)"
    if count < FEW_PUBLIC:
        announcement += f"; {count:,} are few and it will resemble them, {FEW_PUBLIC:,} and more are better"
    return replace(plan, announcement=announcement)


def prior_of(plan: ModelPlan, device: str, reporter: Reporter) -> AuxiliaryModel:
    """The prior, trained where it is not there yet."""
    return _trained(plan, device, reporter) if plan.card is None else AuxiliaryModel(plan.card, own=False)


def _existing_model(kind: str, file: CardFile, request: AuditRequest) -> ModelPlan:
    """The plan of an existing card; settings for a training that will not happen are refused."""
    if request.settings_of(f"{kind}_training"):
        raise MibenchError(f"--{kind} {file.name} is there already, nothing is trained: drop --set {kind}_training.*")
    return ModelPlan(kind, card=file, arguments=file.card().arguments)


def _training(
    kind: str,
    architecture: str,
    settings: dict[str, object],
    request: AuditRequest,
    material: AuditData,
    target: CardFile | None,
    announcement: str,
) -> ModelPlan:
    """A training whose settings are checked, under a name that the same settings and data give again."""
    against = None if target is None else target.card().weights.sha256
    tag = hash_of([plain(settings), request.seed, material.dataset.digest, against])[:8]
    training = Training(
        kind=kind,
        architecture=architecture,
        dataset=request.dataset,
        tag=tag,
        target=None if target is None else target.name,
        seed=request.seed,
        settings={"train": settings, "dataset": material.settings},
    )
    recipe = resolve_training(training).recipe  # a wrong setting is refused before a minute is spent
    return ModelPlan(kind, training=training, arguments=recipe.arguments(), announcement=announcement)


def _trained(plan: ModelPlan, device: str, reporter: Reporter) -> AuxiliaryModel:
    """Train, or find what the same settings and data gave before. A stopped training goes on where it was."""
    training = plan.training
    assert training is not None
    known = all_cards().get(training.name)
    if known is not None and known.kind == plan.kind:
        reporter.say(f"{plan.kind}: {training.name} was trained before")
        return AuxiliaryModel.of(known)
    reporter.say(plan.announcement)
    train(training, device=device, reporter=reporter, unused=False)  # the audit has said it
    return AuxiliaryModel.of(all_cards()[training.name])
