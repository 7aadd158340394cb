"""Label smoothing of both signs: reference vectors, schedules, and that the schedule reaches the loss."""

from __future__ import annotations

import pytest
import torch
from defended import VECTORS, sines, train_tiny
from torch import nn

from mibench.targets.defences import label_smoothing
from mibench.targets.defences.label_smoothing import LabelSmoothing, NegativeLabelSmoothing, scheduled, smoothed_losses

REFERENCE = VECTORS["label_smoothing"]


@pytest.mark.parametrize("alpha", REFERENCE["alpha"])
def test_losses_and_gradients_are_the_reference_ones(alpha: str) -> None:
    expected = REFERENCE["alpha"][alpha]
    logits = sines(2.0, 0.7, (4, 5)).float().requires_grad_()
    loss = smoothed_losses(logits, torch.tensor(REFERENCE["labels"]), float(alpha)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(expected["grad_row0"], abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.9])
def test_positive_smoothing_is_that_of_torch(alpha: float) -> None:
    logits = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7)
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=alpha)
    assert smoothed_losses(logits, labels, alpha).mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_others_term_leaves_the_own_class_out() -> None:
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 2])
    negative = -logits.log_softmax(dim=1)
    others = torch.ones(3, 4).scatter(1, labels[:, None], 0) / 3
    expected = 1.2 * negative[range(3), labels] - 0.2 * (others * negative).sum(dim=1)
    assert torch.allclose(smoothed_losses(logits, labels, -0.2, "others"), expected, atol=1e-6)


def test_the_schedule_is_the_released_one() -> None:
    reference = REFERENCE["schedule"]
    for epoch, expected in reference["epochs"].items():
        found = scheduled(reference["alpha"], int(epoch), reference["num_epochs"], "ramp")
        assert found == pytest.approx(expected, abs=1e-12), epoch
    assert scheduled(-0.05, 49, 100, "off-by-one") == pytest.approx(-0.001)
    assert scheduled(-0.05, 0, 100, "constant") == -0.05


@pytest.mark.parametrize("epochs", [1, 4, 10, 12])
def test_the_last_epoch_is_trained_with_the_whole_factor(epochs: int) -> None:
    assert scheduled(-0.05, epochs - 1, epochs, "ramp") == -0.05 or epochs == 1


@pytest.mark.parametrize("defence", [NegativeLabelSmoothing(alpha=-0.3), LabelSmoothing(alpha=0.3)])
def test_the_factor_inside_the_loss_follows_the_schedule(defence, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []

    def watched(logits, labels, factor, term="all"):
        used.append(factor)
        return smoothed_losses(logits, labels, factor, term)

    monkeypatch.setattr(label_smoothing, "smoothed_losses", watched)
    train_tiny(defence, epochs=4)
    per_epoch = 6  # batches
    if defence.name == "ls":
        assert used == [0.3] * 4 * per_epoch
    else:  # off in two epochs, half the way in the third, whole in the last
        assert used == pytest.approx([-0.15] * per_epoch + [-0.3] * per_epoch)


def test_logits_grow_without_bound_under_a_negative_factor() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(smoothed_losses(logits, torch.tensor([0]), -1.0).mean(), logits)
        logits = (logits - gradient).detach().requires_grad_()
    later = torch.autograd.grad(smoothed_losses(logits, torch.tensor([0]), -1.0).mean(), logits)[0]
    assert later[0, 0].item() == pytest.approx(-(1 - 1 / 3), abs=1e-3)  # a (1 - 1/C), also where p = 1


def test_half_precision_logits_are_read_in_float32() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(5)
    rounded = logits.bfloat16()
    assert torch.equal(smoothed_losses(rounded, labels, -0.05), smoothed_losses(rounded.float(), labels, -0.05))
