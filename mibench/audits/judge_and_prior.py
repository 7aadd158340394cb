"""The judge and the prior of an audit: those that are named, else trained on the auditor's own images and kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mibench import registry
from mibench.api import Attack
from mibench.errors import MibenchError
from mibench.system.canonical import hash_of, plain
from mibench.system.devices import choose_device
from mibench.system.progress import Reporter
from mibench.weights.accuracy import measure_accuracy
from mibench.weights.cards import CardFile, all_cards
from mibench.weights.cards import find as find_card
from mibench.weights.load import build_judge
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
JUDGE_SETTINGS: dict[str, Any] = {
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
PRIOR_SETTINGS: dict[str, dict[str, Any]] = {
    "gmi": {"width": 0.25, "average": 0.999, "batch_size": 32, "critic_steps": 2, "steps": 10_000},
    "kedmi": {"width": 0.25, "average": 0.999, "batch_size": 32, "critic_steps": 2, "steps": 10_000},
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


def judge_for(request: AuditRequest, material: AuditData, device: str, reporter: Reporter) -> AuxiliaryModel:
    """The judge that was named, else one trained on the private images.

    Raises:
        MibenchError: there is no such judge, or it knows other people.
    """
    if request.judge is not None:
        return _named_judge(find_card("judge", request.judge, request.dataset), material, device, reporter)
    count = material.counts["train"]
    least, most = JUDGE_EPOCHS
    epochs = min(max(math.ceil(JUDGE_STEPS / max(count // JUDGE_BATCH, 1)), least), most)
    settings = {**JUDGE_SETTINGS, "epochs": epochs, "batch_size": min(JUDGE_BATCH, max(count // 2, 2))}
    settings |= request.said("judge_training")
    if (architecture := registry.role("default_judge")) is None:
        raise MibenchError("no installed package declares a judge to train", cure="name one with --judge")
    announcement = (
        f"judge: none named, so {architecture} is trained on the {count:,} private images, {settings['epochs']} epochs"
    )
    return _trained("judge", architecture, settings, request, material, None, announcement, device, reporter)


def _named_judge(file: CardFile, material: AuditData, device: str, reporter: Reporter) -> AuxiliaryModel:
    """A judge from elsewhere, measured on the images of this audit: it may know other people, or in another order."""
    card, people = file.card(), material.counts["people"]
    if card.classes != people:
        raise MibenchError(
            f"--judge {file.name} knows {card.classes} people, the data has {people}", cure="leave it out"
        )
    test = material.dataset.private("test", card.image.size)
    chosen = choose_device(device)
    classifier = build_judge(file, chosen, None)
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


def prior_for(
    request: AuditRequest, attack: type[Attack], material: AuditData, target: CardFile, device: str, reporter: Reporter
) -> AuxiliaryModel:
    """The prior that was named and exists, else one trained on the public images.

    Raises:
        MibenchError: a name that is no prior.
    """
    name = prior_name(request, attack)
    if "@" in name or "+" in name:
        return AuxiliaryModel(find_card("prior", name, request.dataset), own=False)
    per_target = prior_class(name).per_target
    count = material.counts["public"]
    settings = {**PRIOR_SETTINGS.get(name, {})}
    if name == "stylegan2":
        size = target.card().image.size
        settings["resolution"] = min(max(2 ** math.floor(math.log2(size)), SMALLEST_PRIOR), LARGEST_PRIOR)
    settings |= request.said("prior_training")
    announcement = f"prior: none named, so {name} is trained on the {count:,} public images"
    length = next((length for length in ("steps", "images") if length in settings), None)
    if length is not None:
        announcement += f", {settings[length]:,} {length}"
        if settings[length] >= PRIOR_SETTINGS.get(name, {}).get(length, 1) and choose_device(device).type == "cpu":
            announcement += f" (hours on a CPU; --set prior_training.{length}=N for fewer, which is worse)"
    if count < FEW_PUBLIC:
        announcement += f"; {count:,} are few and it will resemble them, {FEW_PUBLIC:,} and more are better"
    against = target if per_target else None
    return _trained("prior", name, settings, request, material, against, announcement, device, reporter)


def _trained(
    kind: str,
    architecture: str,
    settings: dict[str, Any],
    request: AuditRequest,
    material: AuditData,
    target: CardFile | None,
    announcement: str,
    device: str,
    reporter: Reporter,
) -> AuxiliaryModel:
    """Train, or find what the same settings and data gave before. A stopped training goes on where it was."""
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
    resolve_training(training)  # a wrong setting is refused before a minute is spent
    known = all_cards().get(training.name)
    if known is not None and known.kind == kind:
        reporter.say(f"{kind}: {training.name} was trained before")
        return AuxiliaryModel.of(known)
    reporter.say(announcement)
    train(training, device=device, reporter=reporter, unused=False)  # the audit has said it
    return AuxiliaryModel.of(all_cards()[training.name])
