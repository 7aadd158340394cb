"""What ``mibench train`` does for answer-time filters: have them learn, measure what they leave, and put them around
trained weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mibench.api import (
    Access,
    Accuracy,
    AnswerFilter,
    Card,
    CardDefence,
    CardName,
    FilteredAnswers,
    ImageSpec,
    ReferenceAnswers,
    TrainedWeights,
    Victim,
    WeightsFile,
)
from mibench.data.split import IdentitySplit, Images
from mibench.errors import MibenchError
from mibench.system.devices import deterministic
from mibench.system.progress import Reporter
from mibench.weights.answer_filters import own_weights
from mibench.weights.cards import CardFile
from mibench.weights.load import build_network, built_network, stored_tensors
from mibench.weights.save import save_weights, to_safetensors

BATCH = 64  # images


def learn(
    network: nn.Module,
    image: ImageSpec,
    filters: Sequence[AnswerFilter],
    dataset: IdentitySplit,
    *,
    device: torch.device,
    reporter: Reporter,
) -> tuple[tuple[AnswerFilter, ...], dict[str, Tensor]]:
    """Have those filters learn that have weights of their own, each from the answers that those before it leave.

    Args:
        network, image: of the classifier.
        filters: of its answers.
        dataset: whose public images are shown; no private one is.
        device, reporter: of the computation.

    Returns:
        The filters as they act, and their weights as they lie among the network's.
    """
    wanted = max((one.reference_images for one in filters), default=0)
    if not wanted:
        return tuple(filters), {}
    public = dataset.public(image.size, wanted).pixels
    shown = public.float() / 255
    victim = Victim(network.to(device), image=image, num_classes=dataset.num_classes, access=Access.GRADIENTS)
    acting: list[AnswerFilter] = []
    learnt: dict[str, dict[str, Tensor]] = {}
    with deterministic(device, "float32"):
        reporter.start(f"showing {len(shown)} public images")
        try:
            with torch.no_grad():
                logits = torch.cat([victim.logits(batch.to(device)).cpu() for batch in shown.split(BATCH)])
        finally:
            reporter.stop()
        for one in FilteredAnswers(filters).filters:
            if one.reference_images:
                count = one.reference_images
                scores = FilteredAnswers(acting)(logits[:count], shown[:count])
                reporter.start(f"training the filter {one.name}")
                try:
                    reference = ReferenceAnswers(
                        images=public[:count], scores=scores, device=device, progress=reporter.update
                    )
                    learnt[one.name] = {key: value.cpu() for key, value in one.learn(reference).items()}
                finally:
                    reporter.stop()
                one = one.with_weights(learnt[one.name])
            acting.append(one)
    return tuple(acting), own_weights(learnt)


def measure_answers(
    network: nn.Module,
    image: ImageSpec,
    filters: Sequence[AnswerFilter],
    images: Images,
    *,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, float | int]:
    """The utility that filters leave, on stored test images.

    Returns:
        ``test_accuracy`` and ``test_images``: of the answered labels. Where scores are answered,
        ``answer_accuracy``: share of images whose label has the largest answered score (the first of equal ones), and
        ``answer_distortion``: mean total variation distance, half the sum of absolute differences, between answered
        and unfiltered scores.
    """
    answers = FilteredAnswers(filters)
    classes = int(images.labels.max()) + 1
    victim = Victim(network.to(device), image=image, num_classes=classes, access=Access.GRADIENTS)
    pixels, verdicts, distortion = images.floats(), [], 0.0
    reporter.start(f"measuring answers to {len(images)} test images")
    try:
        with deterministic(device, "float32"), torch.no_grad():
            for start in range(0, len(images), BATCH):
                shown, own = pixels[start : start + BATCH].to(device), images.labels[start : start + BATCH].to(device)
                logits = victim.logits(shown)
                answered = answers(logits, shown)
                distortion += float((answered - logits.softmax(dim=1)).abs().sum()) / 2
                verdicts.append((logits, answered, own))
                reporter.update(min(start + BATCH, len(images)), len(images))
    finally:
        reporter.stop()
    facts: dict[str, float | int] = {
        "test_accuracy": Accuracy.of((logits, own) for logits, _, own in verdicts).value,
        "test_images": len(images),
    }
    if answers.grants >= Access.SCORES:
        facts["answer_accuracy"] = Accuracy.of((answered, own) for _, answered, own in verdicts).value
        facts["answer_distortion"] = distortion / len(images)
    return facts


def measure_trained(
    trained: TrainedWeights,
    filters: Sequence[AnswerFilter],
    dataset: IdentitySplit,
    device: torch.device,
    reporter: Reporter,
) -> TrainedWeights:
    """A trained target with what its filters learnt, its utility measured again through them; the same without any."""
    if not filters:
        return trained
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in trained.weights.items()}
    network = built_network("target", trained.architecture, trained.arguments, dataset.num_classes, tensors)
    acting, learnt = learn(network, trained.image, filters, dataset, device=device, reporter=reporter)
    images = dataset.private("test", trained.image.size)
    measured = measure_answers(network, trained.image, acting, images, device=device, reporter=reporter)
    weights = {**trained.weights, **learnt}
    return dataclasses.replace(trained, weights=weights, measured={**trained.measured, **measured})


def filter_twin(
    name: CardName,
    twin: CardFile,
    filters: Sequence[AnswerFilter],
    dataset: IdentitySplit,
    folder: Path,
    *,
    defence: CardDefence,
    command: str,
    device: torch.device,
    reporter: Reporter,
) -> tuple[Path, Card]:
    """Write the twin's weights once more under a card that names the filters.

    The file is the twin's, byte for byte, unless a filter has weights of its own: they are added to it.

    Args:
        name: of the new card.
        twin: whose weights are behind the filters.
        filters: one or more.
        dataset: that the twin was trained on; its test images are measured through the filters.
        folder: gets ``cards/`` and ``weights/``.
        defence: what the card says of the filters.
        command: that makes the card again.
        device, reporter: of the measurement. What else the twin's card measured is kept.

    Raises:
        MibenchError: the new card would take the name of the twin.
    """
    if str(name) == twin.name:
        raise MibenchError(
            f"{name} is the name of the twin itself",
            cure="choose another --tag",
        )
    network, card = build_network(twin)  # its weights are checked here
    acting, learnt = learn(network, card.image, filters, dataset, device=device, reporter=reporter)
    content = (
        to_safetensors(str(name), {**stored_tensors(twin), **learnt}) if learnt else twin.weights_path.read_bytes()
    )
    images = dataset.private("test", card.image.size)
    measured = measure_answers(network, card.image, acting, images, device=device, reporter=reporter)
    access = min(FilteredAnswers(filters).grants, Access[card.access.upper()])
    filtered = dataclasses.replace(
        card,
        name=str(name),
        weights=WeightsFile(f"{name.stem}.safetensors", hashlib.sha256(content).hexdigest(), len(content)),
        recipe={**card.recipe, "command": command},
        reported=None,
        measured={**(card.measured or {}), **measured},
        access=access.word,
        defence=defence,
    )
    return save_weights(filtered, content, folder), filtered
