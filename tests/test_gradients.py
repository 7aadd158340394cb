"""Gradients that are of no use are told from those that are, before an attack follows them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.api import Access, ImageSpec, MibenchError, Victim
from mibench.weights.gradient_check import gradient_fault

CPU = torch.device("cpu")
SIZE, CLASSES = 8, 5


class Wrong(torch.autograd.Function):
    """Right on the way forward."""

    raised: BaseException = ValueError("no way back")

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise Wrong.raised


class Net(nn.Module):
    """A linear layer behind something that may lose the gradient; ``after`` changes the scores."""

    def __init__(self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIZE * SIZE, CLASSES)
        self.before, self.after = before, after

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.after(self.head(self.before(images).flatten(1)))
        return logits, logits


def same(values: Tensor) -> Tensor:
    return values


def one_hot(logits: Tensor) -> Tensor:
    return nn.functional.one_hot(logits.argmax(1), CLASSES).float()


def spoilt(images: Tensor) -> Tensor:
    """A product is needed for its own gradient, and written over."""
    squares = images * images
    shifted = squares.exp()
    shifted.mul_(2)
    return shifted


def victim(before: Callable[[Tensor], Tensor] = same, after: Callable[[Tensor], Tensor] = same) -> Victim:
    torch.manual_seed(0)
    return Victim(Net(before, after), image=ImageSpec(size=SIZE), num_classes=CLASSES, access=Access.GRADIENTS)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (torch.no_grad()(same), torch.no_grad()(lambda y: y * 2), "its scores come without one"),
        (same, lambda y: y.detach(), "its scores come without one"),
        (lambda x: torch.from_numpy(x.detach().numpy()), same, "its scores come without one"),
        (same, one_hot, "its scores come without one"),
        (same, torch.inference_mode()(lambda y: y * 2), "its scores come without one"),
        (lambda x: x.detach(), lambda y: y + torch.zeros(1, requires_grad=True), "does not reach the images"),
        (lambda x: (x * 4).round() / 4, same, "zero everywhere"),
        (same, lambda y: one_hot(y) + 0 * y, "zero everywhere"),
        (lambda x: x + (x * 0).sqrt(), same, "not finite"),
        (same, lambda y: (y - y.detach()).norm(dim=1, keepdim=True).pow(0.5) + y, "not finite"),
        (spoilt, same, "cannot be computed (RuntimeError: "),
        (Wrong.apply, same, "cannot be computed (ValueError: no way back)"),
    ],
)
def test_a_gradient_that_is_of_no_use_is_named(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], fault: str
) -> None:
    assert fault in str(gradient_fault(victim(before, after), CPU))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (same, same),
        (lambda x: x.mul_(255), same),
        (same, lambda y: y.softmax(1).clamp_min(1e-30).log()),
        (same, lambda y: one_hot(y) + y - y.detach()),  # a straight-through gradient is one
        (lambda x: (x - 0.9).relu(), same),
    ],
)
def test_a_gradient_that_is_of_use_is_none_to_complain_about(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]
) -> None:
    with torch.no_grad():
        assert gradient_fault(victim(before, after), CPU) is None


def test_what_happens_on_the_way_back_is_guarded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wrong, "raised", SystemExit(0))
    with pytest.raises(MibenchError, match="the victim ends the program on the way back"):
        gradient_fault(named(victim(Wrong.apply), "the victim"), CPU)
    monkeypatch.setattr(Wrong, "raised", MemoryError())
    with pytest.raises(MemoryError):
        gradient_fault(victim(Wrong.apply), CPU)
    assert sys.stdout is not sys.stderr


def named(found: Victim, name: str) -> Victim:
    found.name = name
    return found


def test_images_of_the_caller_stay_what_they_are() -> None:
    """Trap: with mean 0 and standard deviation 1 nothing is computed that would have made a copy."""
    spoiling, copying = victim(lambda x: x.mul_(255)), victim(lambda x: x * 255)
    images = torch.rand(3, 3, SIZE, SIZE)
    kept = images.clone()
    assert torch.equal(spoiling.scores(images), copying.scores(images))
    assert torch.equal(images, kept)
    gradients = []
    for found in (spoiling, copying):
        leaf = kept.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(found.logits(leaf).square().sum(), leaf)
        gradients.append(gradient)
        assert torch.equal(leaf, kept)
        assert (found.queries.forward, found.queries.backward) == (6, 3)
    assert torch.equal(*gradients)
