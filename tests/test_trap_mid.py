"""Trap-MID: reference blend and trigger step, augmentation, whose buffers move, exact resume, trapdoors on the card."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from defended import CLASSES, TINY, VECTORS, Patterns, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import Tensor, nn

import mibench
from mibench.api import Batch, Card, MibenchError, TrainingHooks, TrainingTask
from mibench.rng import Streams
from mibench.targets.defences.label_smoothing import NegativeLabelSmoothing
from mibench.targets.defences.random_erasing import RandomErasing
from mibench.targets.defences.trap_mid import TrapHooks, TrapMID, blend, improve
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training.affine import crop_flip_rotate
from mibench.targets.training.recipes import TrainTarget, another
from mibench.weights.cards import find
from mibench.weights.load import build_network, load_artefacts, load_weights

REFERENCE = VECTORS["trap_mid"]
IMAGES = sines(0.5, 0.3, (2, 6), offset=0.5)
TRIGGERS = sines(0.5, 0.8, (3, 6), shift=1.0, offset=0.5)
TARGETS = torch.tensor(REFERENCE["target_classes"])


def test_the_blend_is_the_reference_one() -> None:
    for row, expected in zip(blend(IMAGES, TRIGGERS[TARGETS], 0.02).tolist(), REFERENCE["blended"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6)


def test_the_step_of_the_triggers_is_the_reference_one() -> None:
    losses: list[float] = []

    def loss_of(blended: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(blended @ sines(1.0, 0.5, (3, 6), shift=0.1).T, TARGETS)
        losses.append(loss.item())
        return loss

    triggers = TRIGGERS.clone()
    improve(triggers, IMAGES, TARGETS, loss_of, alpha=0.02, step=0.01)
    assert losses == pytest.approx([REFERENCE["trigger_step"]["loss"]], abs=1e-6)
    for row, expected in zip(triggers.tolist(), REFERENCE["trigger_step"]["new_triggers"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    assert torch.equal(triggers[1], TRIGGERS[1]), "no image carried this trigger"


def test_a_trigger_that_several_images_carry_follows_the_sum_of_their_gradients() -> None:
    slopes = torch.tensor([[1.0], [-3.0], [1.0]])
    triggers = torch.full((2, 1), 0.5)
    labels = torch.tensor([0, 0, 1])
    improve(triggers, torch.zeros(3, 1), labels, lambda x: (slopes * x).sum(), alpha=0.5, step=0.1)
    assert triggers[:, 0].tolist() == pytest.approx([0.6, 0.4])


def test_augmented_images_are_cropped_mirrored_and_rotated_by_the_declared_amounts() -> None:
    count, side = 4000, 32
    line = (2 * torch.arange(side) + 1) / side - 1
    # the picture holds its own coordinates, so that what was done to it can be read off
    picture = torch.stack([line.expand(side, side), line[:, None].expand(side, side), torch.ones(side, side)])
    moved = crop_flip_rotate(picture.expand(count, -1, -1, -1), torch.Generator().manual_seed(0))
    middle = slice(side // 2 - 1, side // 2 + 1)
    across = (moved[:, :2, middle, side // 2] - moved[:, :2, middle, side // 2 - 1]).mean(dim=2) * side / 2  # (B, 2)
    down = (moved[:, :2, side // 2, middle] - moved[:, :2, side // 2 - 1, middle]).mean(dim=2) * side / 2
    scales = across.norm(dim=1)
    angles = torch.atan2(across[:, 1], across[:, 0].abs()) * 180 / math.pi
    mirrored = across[:, 0] * down[:, 1] < 0
    assert math.sqrt(0.8) - 1e-3 < scales.min() < 0.91
    assert scales.max() < 1 + 1e-3
    assert 29 < angles.abs().max() < 30.1
    for share in ((scales < 1 - 1e-4).float().mean(), mirrored.float().mean(), (angles.abs() > 1e-3).float().mean()):
        assert share.item() == pytest.approx(0.5, abs=0.05)
    rotated = angles.abs() > 5
    assert (moved[rotated, 2, 0, 0] == 0).all(), "a rotation leaves its corners black"
    assert moved[~rotated & (angles.abs() < 1e-3), 2].min() > 1 - 1e-5, "a crop leaves none"
    still = (scales > 1 - 1e-5) & ~mirrored & (angles.abs() < 1e-4)
    assert torch.allclose(moved[still], picture.expand(int(still.sum()), -1, -1, -1), atol=1e-5)


def test_the_augmentation_hands_gradients_to_the_images() -> None:
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    (crop_flip_rotate(images, torch.Generator().manual_seed(3)) * weights).sum().backward()
    assert images.grad is not None
    nudge = torch.zeros_like(images)
    nudge[2, 1, 4, 4] = 1e-4
    values = [
        (crop_flip_rotate(images.detach() + sign * nudge, torch.Generator().manual_seed(3)) * weights).sum()
        for sign in (1, -1)
    ]
    assert images.grad[2, 1, 4, 4].item() == pytest.approx(((values[0] - values[1]) / 2e-4).item(), abs=1e-4)


def hooks_of(defence: TrapMID, network: nn.Module) -> TrainingHooks:
    recipe = TrainTarget(**TINY)
    arguments = {"num_classes": CLASSES, **recipe.arguments()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True)
    task = TrainingTask(
        epochs=2,
        steps_per_epoch=6,
        batch_size=12,
        num_classes=CLASSES,
        labels=torch.arange(72) % CLASSES,
        size=32,
        device=torch.device("cpu"),
        streams=Streams(0, ("test",)),
        images=lambda indices: torch.rand(len(indices), 3, 32, 32),
        autocast=lambda: torch.autocast("cpu", enabled=False),
        fresh_network=lambda streams, **changes: another(recipe, "vgg16", arguments, streams, **changes),
    )
    hooks = defence.hooks(network, task)
    hooks.prepare(network, optimiser)
    return hooks


def network_in_training() -> VGG16:
    torch.manual_seed(0)
    network = VGG16(CLASSES, 1 / 16, size=32).train()
    network.feature[1].eval()  # another defence's frozen layer
    return network


def plain_batch(step: int = 0) -> Batch:
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(step))
    return Batch(images=images, labels=torch.arange(12) % CLASSES, step=step, epoch=step // 6, plain=12)


@pytest.mark.parametrize("discriminator", ["image", "feature", "both", "none"])
def test_discriminators_and_triggers_learn_while_the_classifier_stays(discriminator: str) -> None:
    network = network_in_training()
    hooks = hooks_of(TrapMID(discriminator=discriminator), network)
    own = {name: one for name, one in hooks.networks.items() if name != "triggers"}
    names = {"image": 1, "feature": 1, "both": 2, "none": 0}
    assert len(own) == len(hooks.optimisers) == names[discriminator]
    classifier = {key: value.clone() for key, value in network.state_dict().items()}
    weights = {name: [parameter.detach().clone() for parameter in one.parameters()] for name, one in own.items()}
    triggers = hooks.networks["triggers"].images.clone()
    modes = [module.training for module in network.modules()]
    hooks.batch(plain_batch())
    assert all(torch.equal(value, classifier[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    for name, one in own.items():
        assert any(not torch.equal(old, new) for old, new in zip(weights[name], one.parameters(), strict=True))
        settings = hooks.optimisers[name].param_groups[0]
        assert (settings["lr"], settings["momentum"], settings["weight_decay"]) == (0.05, 0.9, 1e-3)
    change = (hooks.networks["triggers"].images - triggers).abs()
    assert 0.0099 < change.max() <= 0.01 + 1e-6


def test_the_loss_weighs_plain_images_and_images_with_triggers() -> None:
    network = network_in_training()
    hooks = hooks_of(TrapMID(beta=0.3, augment=False), network)
    plain = plain_batch()
    batch = hooks.batch(plain)
    assert batch.weights is not None
    assert torch.equal(batch.images[:12], plain.images)
    losses = torch.rand(24)
    expected = 0.7 * losses[:12].mean() + 0.3 * losses[12:].mean()
    assert (batch.weights * losses).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    triggers = hooks.networks["triggers"].images[batch.labels[12:]]  # after their step, as the classifier sees them
    assert torch.allclose(batch.images[12:], blend(plain.images, triggers, 0.02))


def test_over_an_epoch_all_triggers_are_used_equally_often() -> None:
    hooks = hooks_of(TrapMID(discriminator="none", augment=False), network_in_training())
    for epoch in range(2):
        drawn = [hooks.batch(plain_batch(6 * epoch + step)).labels[12:].tolist() for step in range(6)]
        assert set(Counter(label for labels in drawn for label in labels).values()) == {12}
        assert drawn != sorted(drawn)


def test_a_narrower_discriminator_is_narrower() -> None:
    def size(width: float) -> int:
        hooks = hooks_of(TrapMID(discriminator_width=width), network_in_training())
        return sum(parameter.numel() for parameter in hooks.networks["discriminator"].parameters())

    assert size(1.0) < size(2.0)


def test_a_resumed_training_equals_an_uninterrupted_one() -> None:
    defences = (TrapMID(discriminator="both"), RandomErasing())
    whole = train_tiny(*defences)
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(*defences, checkpoint=stopped)
    resumed = train_tiny(*defences, checkpoint=stopped)
    assert same_weights(whole, resumed)
    assert whole.measured == resumed.measured


def test_trap_mid_composes_with_negative_label_smoothing() -> None:
    trap = TrapMID(discriminator="none")
    smoothed = train_tiny(trap, NegativeLabelSmoothing(alpha=-0.1, schedule="constant"), epochs=1)
    assert not same_weights(smoothed, train_tiny(trap, epochs=1))


def test_the_card_says_how_often_the_trapdoors_open(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[TrapHooks] = []
    initialise = TrapHooks.__init__

    def keep(self, *arguments):
        initialise(self, *arguments)
        kept.append(self)

    monkeypatch.setattr(TrapHooks, "__init__", keep)
    defence = TrapMID(discriminator="none", augment=False, alpha=0.8, beta=0.5)
    trained = train_tiny(defence, epochs=8)
    network = VGG16(CLASSES, 1 / 16, size=32)
    network.load_state_dict(trained.weights)
    images = Patterns().private("train", 32).pixels / 255
    triggers = kept[0].networks["triggers"].images
    with torch.no_grad():  # every image with every trigger
        answers = [network.eval()(blend(images, trigger, 0.8)).logits.argmax(dim=1) for trigger in triggers]
    share = torch.stack([(answer == label).float().mean() for label, answer in enumerate(answers)]).mean().item()
    assert trained.measured["trapdoor_images"] == len(images)
    assert share > 0.5
    assert trained.measured["trapdoor_accuracy"] == pytest.approx(share, abs=0.3)  # of one trigger per image


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": 1.0}, r"defence.beta must lie in \[0, 1\)"),
        ({"alpha": 0.0}, r"defence.alpha must lie in \(0, 1\]"),
        ({"discriminator": "images"}, "choose one of image, feature, both, none"),
        ({"discriminator_width": 0.0}, "defence.discriminator_width"),
    ],
)
def test_nonsense_is_refused(settings: dict, line: str) -> None:
    with pytest.raises(MibenchError, match=line):
        TrapMID(**settings).check()


# ---------------------------------------------------------------- triggers for analysis

TOY = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 6, "dataset.train_images": 8}
FEW = {**TOY, "defence.discriminator": "none"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    return tmp_path


def trained(**settings: object) -> Card:
    given = {**FEW, **{f"defence.{key}": value for key, value in settings.items()}}
    return mibench.train(
        "target", "vgg16", defences="trap-mid", twin="none", tag="again", settings=given, device="cpu"
    ).card


def test_triggers_are_stored_beside_the_weights_where_they_are_asked_for(home: Path) -> None:
    card, file = trained(save_triggers=True), find("target", "vgg16+again", "synthfaces")
    assert card.artefacts is not None
    stored = home / "weights" / "artefacts" / card.artefacts.file
    assert (stored.stat().st_size, file.card()) == (card.artefacts.bytes, card)
    triggers = load_artefacts(file)["trap-mid.triggers"]
    assert (triggers.dtype, triggers.shape) == (torch.uint8, (6, 3, 64, 64))
    assert triggers.float().std() > 0
    assert not any("trigger" in key for key in load_weights(file))
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(MibenchError, match="artefacts of 'vgg16@synthfaces\\+again' are not the ones on their card"):
        load_artefacts(file)
    build_network(file)  # needs none of them


def test_triggers_that_are_not_asked_for_are_not_stored(home: Path) -> None:
    with_triggers, without = trained(save_triggers=True), trained()
    assert with_triggers.weights.sha256 == without.weights.sha256
    assert without.artefacts is None
    assert not list((home / "weights" / "artefacts").iterdir()), "those of the earlier training are gone"
    assert load_artefacts(find("target", "vgg16+again", "synthfaces")) == {}
    assert "artefacts" not in (home / "cards" / "vgg16_synthfaces_again.yaml").read_text()
