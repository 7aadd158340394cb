"""AT-AT: the reference perturbation, labels that are wrong, buffers that stay, exact resume."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from defended import CLASSES, VECTORS, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import Tensor, nn

from mibench.api import Batch, MibenchError, TrainingTask
from mibench.api.training import autocast
from mibench.api.weights import TrainingContext
from mibench.rng import Streams
from mibench.targets.defences import anti_adversarial
from mibench.targets.defences.anti_adversarial import AntiAdversarial, towards, wrong_labels
from mibench.targets.defences.random_erasing import RandomErasing
from mibench.targets.networks.vgg16 import VGG16

REFERENCE = VECTORS["at_at"]


def reference_logits(images: Tensor) -> Tensor:
    return torch.tanh(3 * images) @ sines(1.0, 0.5, (3, 6), shift=0.1).T


def test_the_perturbation_is_the_reference_one() -> None:
    images, labels = sines(0.9, 0.3, (2, 6)), torch.tensor(REFERENCE["targets"])
    settings = {key: REFERENCE[key] for key in ("epsilon", "step", "iterations")}
    moved = towards(images, labels, reference_logits, **settings, low=-1.0, high=1.0)
    for row, expected in zip((1e4 * (moved - images)).tolist(), REFERENCE["adv_minus_x_times_1e4"], strict=True):
        assert row == pytest.approx(expected, abs=2e-3)  # the reference was run in float32
    before, after = (nn.functional.cross_entropy(reference_logits(x), labels).item() for x in (images, moved))
    assert before == pytest.approx(REFERENCE["ce_target_before"], abs=1e-6)
    assert after == pytest.approx(REFERENCE["ce_target_after"], abs=1e-6)


def test_pixels_stay_in_their_range_and_within_epsilon_of_where_they_were() -> None:
    images = torch.tensor([[0.0, 1.0, 0.5, 0.0, 1.0, 0.2]]).repeat(2, 1).double()
    start = torch.full_like(images, 0.05)
    labels = torch.tensor([2, 0])
    moved = towards(images, labels, reference_logits, epsilon=0.05, step=0.03, iterations=4, start=start)
    assert 0 <= moved.min() <= moved.max() <= 1
    assert (moved - images).abs().max() <= 0.05 + 1e-12
    assert (moved - images).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["uniform", "next"])
def test_wrong_labels_are_wrong_and_drawn_as_declared(kind: str) -> None:
    count = 8000
    labels = torch.full((count,), CLASSES - 1)
    drawn = Counter(wrong_labels(labels, CLASSES, torch.Generator().manual_seed(0), kind).tolist())
    assert set(drawn) == set(range(CLASSES - 1))
    expected = 1 / (CLASSES - 1) if kind == "uniform" else 2 / CLASSES  # class 0 follows the last
    assert drawn[0] / count == pytest.approx(expected, abs=0.025)


def hooks_of(defence: AntiAdversarial, network: nn.Module, precision: str = "float32"):
    context = TrainingContext(device=torch.device("cpu"), checkpoint=Memory(), precision=precision)
    task = TrainingTask(
        epochs=4,
        steps_per_epoch=3,
        batch_size=5,
        num_classes=CLASSES,
        labels=torch.arange(15) % CLASSES,
        size=32,
        device=torch.device("cpu"),
        streams=Streams(0, ("test",)),
        images=lambda indices: torch.rand(len(indices), 3, 32, 32),
        autocast=lambda: autocast(context),
    )
    return defence.hooks(network, task)


def network_in_training() -> VGG16:
    torch.manual_seed(0)
    network = VGG16(CLASSES, 1 / 16, size=32).train()
    network.feature[1].eval()  # another defence's frozen layer
    return network


def plain_batch(epoch: int = 3) -> Batch:
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images=images, labels=torch.arange(5), step=9, epoch=epoch, plain=5)


def test_the_search_leaves_the_network_as_it_is_unless_asked() -> None:
    for mode in ("eval", "train"):
        network = network_in_training()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        modes = [module.training for module in network.modules()]
        batch = hooks_of(AntiAdversarial(perturb_in=mode), network).batch(plain_batch())
        moved = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
        assert bool(moved) == (mode == "train")
        assert all("running" in key or "num_batches" in key for key in moved)
        assert [module.training for module in network.modules()] == modes
        assert all(parameter.grad is None for parameter in network.parameters())
        assert not batch.images.requires_grad


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1), ("sum", 5)])
def test_the_loss_of_the_batch_is_the_sum_of_the_two_entropies(reduction: str, factor: int) -> None:
    plain = plain_batch()
    batch = hooks_of(AntiAdversarial(weight=0.3, reduction=reduction), network_in_training()).batch(plain)
    assert batch.plain == 5
    assert torch.equal(batch.images[:5], plain.images)
    assert 0 < (batch.images[5:] - plain.images).abs().max() <= 2.5e-4 + 1e-7
    assert (batch.labels[5:] != plain.labels).all()
    losses = torch.rand(10)
    assert batch.weights is not None
    expected = factor * (losses[:5].mean() + 0.3 * losses[5:].mean())
    assert (batch.weights * losses).mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_perturbation_begins_at_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def watched(images, *arguments, **settings):
        calls.append(len(images))
        return towards(images, *arguments, **settings)

    monkeypatch.setattr(anti_adversarial, "towards", watched)
    train_tiny(AntiAdversarial(begins=0.5, iterations=1), epochs=2)
    assert calls == [12] * 6  # of twelve steps


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_resumed_training_equals_an_uninterrupted_one(mode: str) -> None:
    defences = (AntiAdversarial(iterations=2, perturb_in=mode), RandomErasing())
    whole = train_tiny(*defences)
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(*defences, checkpoint=stopped)
    assert same_weights(whole, train_tiny(*defences, checkpoint=stopped))
    assert not same_weights(whole, train_tiny())


def test_a_precision_that_rounds_the_perturbation_away_is_refused() -> None:
    with pytest.raises(MibenchError, match="add --precision float32"):
        hooks_of(AntiAdversarial(), network_in_training(), "bfloat16")
    hooks_of(AntiAdversarial(epsilon=0.01), network_in_training(), "bfloat16")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"weight": -1.0}, "defence.weight must be finite"),
        ({"epsilon": 0.0}, r"defence.epsilon must lie in \(0, 1\]"),
        ({"iterations": 0}, "defence.iterations must be 1 or more"),
        ({"begins": 1.0}, "share of the epochs"),
        ({"perturb_in": "test"}, "choose one of eval, train"),
    ],
)
def test_nonsense_is_refused(settings: dict, line: str) -> None:
    with pytest.raises(MibenchError, match=line):
        AntiAdversarial(**settings).check()
