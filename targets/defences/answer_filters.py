"""Answer-time filters: what a service may do to the scores it answers, without training anything.

Truncation and rounding of scores are the countermeasures that Fredrikson, Jha and Ristenpart tried against model
inversion ("Model Inversion Attacks that Exploit Confidence Information", CCS 2015); noise and the order of the filters
are mibench's own definitions. None of them protects the network itself: an attacker with gradients ignores them, one
with scores may average, search or train a surrogate on the answers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, AnswerFilter, AnswerStage, MibenchError
from mibench.rng import stream

DISTRIBUTIONS = ("laplace", "gauss")
RESTS = ("zero", "renormalise", "spread")
MOST_DECIMALS = 12
LEAST_TAU = 1e-3  # logits divided by less may not be finite in float32


@dataclass(frozen=True, kw_only=True)
class Temperature(AnswerFilter):
    """Answer ``softmax(o / tau)``. An attacker inverts it and the order of the scores stays: no defence by itself.

    Attributes:
        tau: above 1 flattens the scores; 1 leaves them as they are, to the bit.
    """

    name: ClassVar[str] = "temperature"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    stage: ClassVar[AnswerStage] = AnswerStage.LOGITS

    tau: float = 4.0

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not LEAST_TAU <= self.tau < math.inf:
            raise MibenchError(f"defence.tau must be a finite number of {LEAST_TAU} or more, got {self.tau}")

    def logits(self, logits: Tensor) -> Tensor:
        """Divided by tau."""
        return logits / self.tau


@dataclass(frozen=True, kw_only=True)
class TopK(AnswerFilter):
    """Answer the k largest scores; of equal ones, those of the lower classes.

    Attributes:
        k: how many; as many as there are classes, or more, leave the scores as they are.
        rest: what becomes of the others' share: ``zero``: they are answered as 0; ``renormalise``: the same, and the k
            scores are divided by their sum; ``spread``: each of the others is answered as ``(1 - sum) / (C - k)``.
    """

    name: ClassVar[str] = "top-k"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    stage: ClassVar[AnswerStage] = AnswerStage.SELECT

    k: int = 5
    rest: str = "zero"

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if self.k < 1:
            raise MibenchError(f"defence.k must be 1 or more, got {self.k}")
        if self.rest not in RESTS:
            raise MibenchError(
                f"unknown defence.rest {self.rest!r}",
                cure=f"choose one of {', '.join(RESTS)}",
            )

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """The k largest, and what ``rest`` makes of the others."""
        classes = scores.shape[1]
        if self.k >= classes:
            return scores
        chosen = scores.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True)
        largest = torch.where(kept, scores, 0.0)
        total = largest.sum(dim=1, keepdim=True)
        if self.rest == "renormalise":
            return largest / total
        if self.rest == "spread":
            return torch.where(kept, scores, (1 - total).clamp_min(0) / (classes - self.k))
        return largest


@dataclass(frozen=True, kw_only=True)
class Rounding(AnswerFilter):
    """Answer scores to a number of decimals, half to even. They are not made to sum to 1, and may all become 0.

    Attributes:
        decimals: digits after the point.
    """

    name: ClassVar[str] = "rounding"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    stage: ClassVar[AnswerStage] = AnswerStage.QUANTISE

    decimals: int = 1

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.decimals <= MOST_DECIMALS:
            raise MibenchError(f"defence.decimals must lie in 0..{MOST_DECIMALS}, got {self.decimals}")

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """Rounded in float64: in float32 a product such as 0.05 * 10 would be rounded before it is rounded."""
        return scores.double().round(decimals=self.decimals).to(scores.dtype)


@dataclass(frozen=True, kw_only=True)
class Noise(AnswerFilter):
    """Add noise to the scores, clip them to [0, 1] and divide by their sum.

    The noise is a function of the image, so that asking again tells nothing new. The image is what a service receives:
    8 bits a channel, and a change below half a grey level draws the same noise. One of a whole grey level draws anew:
    an attacker may still average over neighbours and over views (crops) of an image.

    Attributes:
        scale: of a Laplace distribution, or the standard deviation of a Gaussian one.
        distribution: ``laplace`` or ``gauss``.
        key: the secret seed; who knows it can compute the noise.
    """

    name: ClassVar[str] = "noise"
    adaptive: ClassVar[tuple[str, ...]] = ("mirror-b:averaged", "ppa:transfer")
    eight_bits: ClassVar[bool] = True
    stage: ClassVar[AnswerStage] = AnswerStage.PERTURB

    scale: float = 0.01
    distribution: str = "laplace"
    key: int = 0

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.scale < math.inf:
            raise MibenchError(f"defence.scale must be finite and not negative, got {self.scale}")
        if self.distribution not in DISTRIBUTIONS:
            known = ", ".join(DISTRIBUTIONS)
            raise MibenchError(
                f"unknown defence.distribution {self.distribution!r}",
                cure=f"choose one of {known}",
            )

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """Scores with the noise of their images; a row that is clipped to nothing becomes uniform."""
        if not self.scale:
            return scores
        noisy = (scores + self.drawn(images, scores.shape[1]).to(scores)).clamp(0, 1)
        total = noisy.sum(dim=1, keepdim=True)
        return torch.where(total > 0, noisy / total, 1 / scores.shape[1])

    def drawn(self, images: Tensor, classes: int) -> Tensor:
        """The noise ``(N, classes)`` of images ``(N, 3, H, W)`` in [0, 1], float64 on the CPU."""
        pixels = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
        rows = []
        for image in pixels:
            generator = stream(self.key, "answers", hashlib.sha256(image.tobytes()).hexdigest())
            if self.distribution == "gauss":
                rows.append(torch.randn(classes, generator=generator, dtype=torch.float64))
            else:  # by the inverse of its distribution function
                uniform = torch.rand(classes, generator=generator, dtype=torch.float64) - 0.5
                rows.append(-uniform.sign() * torch.log1p(-2 * uniform.abs()))
        return self.scale * torch.stack(rows) if rows else torch.empty(0, classes, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class LabelOnly(AnswerFilter):
    """Answer the label alone. It rules out attacks that compare scores, not those that search along the boundary."""

    name: ClassVar[str] = "label-only"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    stage: ClassVar[AnswerStage] = AnswerStage.WITHHOLD
    grants: ClassVar[Access] = Access.LABELS
