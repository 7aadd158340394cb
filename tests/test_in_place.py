"""Networks that write to what they are given, or return the same tensor twice: nobody else's tensors change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toyworld.networks import ToyPrior

import mibench
from mibench.api import (
    Access,
    AnswerFilter,
    AnswerStage,
    ClassifierOutput,
    FilteredAnswers,
    ImageSpec,
    MibenchError,
    Prior,
    Victim,
)
from mibench.metrics.extractors import JudgeExtractor, RegressorExtractor

SPEC = ImageSpec(4)  # mean 0, std 1: nothing is computed between the images and the network


class Spoiling(nn.Module):
    """Writes to its input, by a leading in-place layer and by itself, and answers in one tensor for all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=True)
        self.answer = torch.zeros(64, 48)

    def forward(self, images: Tensor) -> ClassifierOutput:
        rows = self.first(images.sub_(0.25)).mul_(3).flatten(1)
        answer = self.answer[: len(rows)].copy_(rows)
        return ClassifierOutput(answer, answer[:, :5])


class Copying(nn.Module):
    """The same, on copies."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        rows = (images - 0.25).relu().mul(3).flatten(1)
        return ClassifierOutput(rows, rows[:, :5])


class LastOfTwo(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)[0]


def pictures(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("resize", ["low2high", "bilinear", "antialias"])
@pytest.mark.parametrize("eight_bits", [True, False])
def test_judges_and_regressors(resize: Any, eight_bits: bool) -> None:
    shown = (pictures() * 255).round().to(torch.uint8) if eight_bits else pictures()
    before = shown.clone()
    options: dict[str, Any] = {"name": "it", "resize": resize, "batch": 2}
    judges = [JudgeExtractor(network, SPEC, **options) for network in (Spoiling(), Copying())]
    for spoilt, whole in zip(*(judge(shown) for judge in judges), strict=True):
        assert torch.equal(spoilt, whole)
    assert all(map(torch.equal, *(next(zip(*judge.batches(shown), strict=True)) for judge in judges)))
    regressors = [RegressorExtractor(LastOfTwo(network), SPEC, **options) for network in (Spoiling(), Copying())]
    assert torch.equal(*(regressor(shown) for regressor in regressors))
    assert torch.equal(shown, before)


class Scribbling(AnswerFilter):
    """A filter of answers that writes to the images that it is shown."""

    name = "scribbling"
    stage = AnswerStage.PERTURB

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        images.zero_()
        return scores


def test_filters_of_answers() -> None:
    shown = pictures()
    before = shown.clone()
    answer = FilteredAnswers((Scribbling(),))
    victim = Victim(Copying(), image=SPEC, num_classes=5, access=Access.SCORES, answer=answer)
    victim.scores(shown)
    assert torch.equal(shown, before)


class Sinking(ToyPrior):
    """A prior whose first layer works in place."""

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents.clamp_(min=0))

    def realism(self, images: Tensor) -> Tensor:
        return super().realism(images[:, :, ::2].mul_(2))  # through a view


def sinking() -> Prior:
    return Sinking(torch.tensor(1.0), SPEC, "sinking")


def test_priors_are_refused() -> None:
    latents = torch.randn(3, 4)
    with torch.no_grad(), pytest.raises(MibenchError, match="prior 'sinking' writes to what its decode is given"):
        sinking().decode(latents)
    with torch.no_grad(), pytest.raises(MibenchError, match="prior 'sinking' writes to what its realism is given"):
        sinking().realism(images=pictures())
    assert Sinking.has_discriminator.fget(sinking())  # type: ignore[attr-defined]


def test_a_run_with_such_a_prior_is_refused(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyPrior, "build", classmethod(lambda cls, arguments, weights, image, *, name: sinking()))
    with pytest.raises(MibenchError, match="prior 'sinking' writes to what its decode is given"):
        mibench.run("toyattack", "toynet", "toyfaces", "toy", out=tmp_path, device="cpu")
