"""Label smoothing of both signs: reference vectors, schedules, and that the schedule reaches the loss."""

from __future__ import annotations

import math

import pytest
import torch
from defended import VECTORS, sines, train_tiny
from powercut import Memory
from torch import nn

from mibench.api import MibenchError
from mibench.targets.defences import label_smoothing
from mibench.targets.defences.label_smoothing import LabelSmoothing, NegativeLabelSmoothing, scheduled, smoothed_losses
from mibench.targets.training import supervised

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
    assert (expected["torch_ce_if_allowed"] is None) == (float(alpha) < 0)
    if float(alpha) >= 0:
        assert loss.item() == pytest.approx(expected["torch_ce_if_allowed"], abs=1e-6)


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


# ---------------------------------------------------------------- divergence

DIVERGING = {"alpha": -5.0, "schedule": "constant"}


def test_a_diverged_training_names_the_loss_and_its_cure_within_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "REPORT_SECONDS", 0.0)  # hears of every step
    memory, records = Memory(), []
    with pytest.raises(MibenchError) as caught:
        train_tiny(
            NegativeLabelSmoothing(**DIVERGING),
            checkpoint=memory,
            learning_rate=1e20,
            log=lambda **record: records.append(record),
        )
    assert "diverged in epoch 1" in caught.value.cause
    assert "no lower bound for a negative alpha" in caught.value.cause
    assert caught.value.cure == "set defence.clip_gradient=1, or defence.alpha nearer 0 (now -5)"
    assert not records  # no epoch was over
    assert not memory.saves


def test_the_cure_is_not_what_was_done_already() -> None:
    clipped = NegativeLabelSmoothing(alpha=-5.0, clip_gradient=1.0).why_diverged()
    assert clipped is not None
    assert clipped[1] == "set defence.alpha nearer 0 (now -5)"
    assert NegativeLabelSmoothing(alpha=0.0).why_diverged() is None
    with pytest.raises(MibenchError, match="diverged in epoch 1") as caught:
        train_tiny(learning_rate=1e20)
    assert caught.value.cure == "lower train.learning_rate (now 1e+20) or set train.schedule=cosine"


def test_no_state_that_diverged_is_saved() -> None:
    memory = Memory()
    with pytest.raises(MibenchError, match="diverged"):
        train_tiny(learning_rate=1e20, checkpoint=memory, checkpoint_seconds=0.0)
    state = memory.load()
    assert state is None or state["values"]["totals"].isfinite().all()


def test_weights_that_grew_beyond_their_storage_have_the_same_cure() -> None:
    with pytest.raises(MibenchError, match="is not finite in float16") as caught:
        train_tiny(NegativeLabelSmoothing(**DIVERGING), learning_rate=0.3, epochs=8, storage="float16")
    assert caught.value.cure == "store float32, or set defence.clip_gradient=1, or defence.alpha nearer 0 (now -5)"


def test_clipping_after_the_backward_pass_keeps_a_diverging_training_finite() -> None:
    records = []
    train_tiny(
        NegativeLabelSmoothing(**DIVERGING, clip_gradient=1.0),
        learning_rate=0.3,
        epochs=8,
        storage="float16",
        log=lambda **record: records.append(record),
    )
    assert all(math.isfinite(record["train_loss"]) for record in records)
