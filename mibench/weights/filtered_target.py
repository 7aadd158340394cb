"""What ``mibench train`` does for answer-time filters: measure what they leave, put them around trained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mibench.api import (
    Access,
    Accuracy,
    AnswerFilter,
    Card,
    CardDefence,
    CardName,
    FilteredAnswers,
    ImageSpec,
    TrainedWeights,
    Victim,
    WeightsFile,
)
from mibench.data.split import IdentitySplit, Images
from mibench.errors import MibenchError
from mibench.system.devices import deterministic
from mibench.system.progress import Reporter
from mibench.weights.cards import CardFile
from mibench.weights.load import build_network, built_network
from mibench.weights.save import save_weights

BATCH = 64  # images


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
    """A trained target whose utility is measured again, through its filters; the same without any."""
    if not filters:
        return trained
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in trained.weights.items()}
    network = built_network("target", trained.architecture, trained.arguments, dataset.num_classes, tensors)
    images = dataset.private("test", trained.image.size)
    measured = measure_answers(network, trained.image, filters, images, device=device, reporter=reporter)
    return dataclasses.replace(trained, measured={**trained.measured, **measured})


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
    """Write the twin's weights once more, byte for byte, under a card that names the filters.

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
    images = dataset.private("test", card.image.size)
    measured = measure_answers(network, card.image, filters, images, device=device, reporter=reporter)
    access = min(FilteredAnswers(filters).grants, Access[card.access.upper()])
    filtered = dataclasses.replace(
        card,
        name=str(name),
        weights=WeightsFile(f"{name.stem}.safetensors", card.weights.sha256, card.weights.bytes),
        recipe={**card.recipe, "command": command},
        reported=None,
        measured={**(card.measured or {}), **measured},
        access=access.word,
        defence=defence,
    )
    return save_weights(filtered, twin.weights_path.read_bytes(), folder), filtered
