"""Distillation: reference loss, no private image in training, a teacher that only answers, resume, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from defended import CLASSES, TINY, VECTORS, Patterns, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import Tensor, nn

import mibench
from mibench.api import Access, Batch, ImageSpec, MibenchError, TrainedWeights, TrainingContext, Victim
from mibench.data.split import Images
from mibench.targets.defences.distillation import Distillation, DistillationHooks, distillation_losses
from mibench.targets.defences.label_smoothing import NegativeLabelSmoothing
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training.recipes import TrainTarget

CPU = torch.device("cpu")


class WithPublic(Patterns):
    """The private patterns, and as many public images: mixtures of them."""

    def public(self, size, count=None):
        private = super().private("train", size)
        turned = private.pixels.roll(7, dims=0)
        mixed = ((private.pixels.int() + turned.int()) // 2).to(torch.uint8)[:count]
        return Images(mixed, torch.full((len(mixed),), -1), tuple(f"public-{row}" for row in range(len(mixed))))


@pytest.fixture(scope="module")
def teacher() -> Victim:
    trained = train_tiny(epochs=6)
    network = VGG16(CLASSES, 1 / 16, size=32)
    network.load_state_dict(trained.weights)
    return Victim(network, image=ImageSpec(size=32), num_classes=CLASSES, access=Access.GRADIENTS)


def distilled(teacher: Victim | None, defence: Distillation, memory: Memory | None = None, **changes) -> TrainedWeights:
    recipe = TrainTarget(**{**TINY, "epochs": 2, **changes})
    context = TrainingContext(device=CPU, checkpoint=memory or Memory(), defences=(defence,), teacher=teacher)
    return recipe.run(WithPublic(), context)


def test_the_loss_is_the_reference_one() -> None:
    given = VECTORS["distill"]
    student, answers = sines(1, 0.6, (2, 4)), sines(2, 0.9, (2, 4), 0.5)
    assert distillation_losses(student, answers).mean().item() == pytest.approx(given["loss"], abs=1e-6)
    assert distillation_losses(answers, answers).abs().max() < 1e-12
    softer = distillation_losses(student / 3, answers / 3)
    assert torch.allclose(distillation_losses(student, answers, 3.0), softer)


def test_a_student_sees_public_images_only_and_each_once_before_any_again(
    teacher: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []
    replaced = DistillationHooks.batch

    def watched(self: DistillationHooks, batch: Batch) -> Batch:
        made = replaced(self, batch)
        shown.append((made.images * 255).round().to(torch.uint8))
        assert torch.equal(made.labels, teacher.labels(made.images))
        return made

    monkeypatch.setattr(DistillationHooks, "batch", watched)
    distilled(teacher, Distillation())
    public = {image.numpy().tobytes() for image in WithPublic().public(32).pixels}
    epochs = [torch.cat(shown[:6]), torch.cat(shown[6:])]
    for epoch in epochs:  # 72 images in six batches
        assert sorted(image.numpy().tobytes() for image in epoch) == sorted(public)
    assert not torch.equal(*epochs)


def test_a_student_learns_what_its_teacher_answers(teacher: Victim) -> None:
    trained = distilled(teacher, Distillation(), epochs=10)
    network = VGG16(CLASSES, 1 / 16, size=32)
    network.load_state_dict(trained.weights)
    public = WithPublic().public(32).floats()
    agreeing = (network.eval()(public).logits.argmax(dim=1) == teacher.labels(public)).float().mean()
    assert agreeing > 0.6  # chance: 1/6


def test_the_teacher_only_answers(teacher: Victim) -> None:
    network: nn.Module = teacher._network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    distilled(teacher, Distillation())
    assert not network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_resumed_training_equals_an_uninterrupted_one(teacher: Victim) -> None:
    whole, stopped = distilled(teacher, Distillation(images=40)), Memory(stop_after=1)
    with pytest.raises(Stopped):
        distilled(teacher, Distillation(images=40), stopped)
    assert same_weights(whole, distilled(teacher, Distillation(images=40), stopped))


def test_a_card_names_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    data = {
        "dataset.identities": 6,
        "dataset.train_images": 8,
        "dataset.public_identities": 10,
        "dataset.public_images": 30,
    }
    small = {**data, "train.width": 0.0625, "train.epochs": 1, "train.batch_size": 16}
    twin = mibench.train("target", "vgg16", tag="small", settings=small, device="cpu").card
    card = mibench.train(
        "target", "vgg16", defences="distillation", twin="vgg16+small", settings=data, device="cpu"
    ).card
    assert card.recipe["teacher_sha256"] == twin.weights.sha256
    assert card.defence is not None
    assert (card.defence.twin, card.defence.differs_from_twin) == (twin.name, {})
    with pytest.raises(MibenchError, match="learns from the undefended twin's answers, and there is none"):
        mibench.train("target", "vgg16", defences="distillation", twin="none", settings=data, device="cpu")


def test_it_is_alone_and_refuses_nonsense(teacher: Victim) -> None:
    with pytest.raises(MibenchError, match="holds alone only"):
        mibench.train("target", "vgg16", defences=("distillation", NegativeLabelSmoothing.name), device="cpu")
    with pytest.raises(MibenchError, match="handed no teacher"):
        distilled(None, Distillation())
    for wrong, line in ((Distillation(temperature=0.0), "temperature"), (Distillation(images=-1), "images")):
        with pytest.raises(MibenchError, match=f"defence.{line} must"):
            wrong.check()
