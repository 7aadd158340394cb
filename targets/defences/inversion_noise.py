"""Noise against inversion: scores are moved where a network that inverts them does worse.

The filter has an inverter of its own, trained on public images to draw an image from its scores. Before it answers, the
logits take steps by the sign of the gradient of the inverter's loss, so that it grows; the label keeps the largest
score, and the whole change is bounded in L1. After the ``adv_purifier`` of the MIA toolbox, whose loop does not run (it
asks for a gradient that is never computed); the idea is that of adversarial examples as answers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import AnswerFilter, AnswerStage, MibenchError, ReferenceAnswers
from mibench.api.training import initial_weights
from mibench.rng import Streams

from .learnt_filter import LearntFilter

LEAST = 1e-12  # of a score in a logarithm
SIDE = 16  # pixels of what the inverter draws: coarse colours are what scores tell of
CHANNELS = 32


def bounded_noise(logits: Tensor, moved: Tensor, gradient: Tensor, *, step: float, bound: float) -> Tensor:
    """The change of logits after one more step: ``moved + step sign(gradient) - logits``, bounded.

    The largest of ``logits`` is raised until it is the largest again, then the change is scaled to an L1 norm of at
    most ``bound``, under which it stays the largest.

    Args:
        logits: ``(N, C)``, those of the classifier.
        moved: ``(N, C)``, what steps before made of them.
        gradient: ``(N, C)``, of the inverter's loss at ``moved``.
        step: of each logit.
        bound: of the sum of absolute changes.
    """
    target = moved + step * gradient.sign()
    label = logits.argmax(dim=1, keepdim=True)
    raised = torch.maximum(target.gather(1, label), target.amax(dim=1, keepdim=True))
    noise = target.scatter(1, label, raised) - logits
    size = noise.abs().sum(dim=1, keepdim=True)
    return torch.where(size > bound, noise * (bound / size.clamp_min(LEAST)), noise)


class Inverter(nn.Module):
    """Scores ``(N, C)`` to coarse images ``(N, 3, 16, 16)`` in [0, 1]; it sees their standardised logarithms."""

    mean: Tensor
    spread: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes))
        self.register_buffer("spread", torch.ones(()))
        self.inner = nn.Linear(classes, 4 * CHANNELS * 4 * 4)
        self.outer = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(4 * CHANNELS, 2 * CHANNELS, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * CHANNELS, CHANNELS, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, 3, 3, 1, 1),
        )

    def standardise(self, scores: Tensor) -> None:
        """Take mean and spread from the logarithms of reference scores ``(N, C)``."""
        logarithms = scores.clamp_min(LEAST).log()
        self.mean.copy_(logarithms.mean(dim=0))
        self.spread.copy_((logarithms - self.mean).square().mean().sqrt().clamp_min(1e-3))

    def forward(self, scores: Tensor) -> Tensor:
        """Images."""
        seen = (scores.clamp_min(LEAST).log() - self.mean) / self.spread
        drawn: Tensor = self.outer(self.inner(seen).unflatten(1, (4 * CHANNELS, 4, 4))).sigmoid()
        return drawn


def inversion_loss(inverter: nn.Module, scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of each coarse image, ``(N,)``.

    Args:
        inverter: draws images of 16 pixels.
        scores: ``(N, C)``.
        images: float32 ``(N, 3, S, S)`` in [0, 1].
    """
    coarse = nn.functional.adaptive_avg_pool2d(images, SIDE)
    losses: Tensor = (inverter(scores) - coarse).square().mean(dim=(1, 2, 3))
    return losses


@dataclass(frozen=True, kw_only=True)
class InversionNoise(LearntFilter):
    """Move the scores where a network that inverts them does worse, and keep their label.

    The inverter is trained on public images when the card is made, and its weights are stored with the target's.

    Attributes:
        step: change of a logit by one step, eta.
        bound: of the sum of absolute changes of an answer's logits, epsilon; 0 is no defence.
        steps: each follows the gradient where the one before led.
        images: public ones that the inverter learns from, the first.
        epochs, batch_size: of its training, by Adam at 1e-3.
        seed: of its initial weights and the order.
    """

    name: ClassVar[str] = "inversion-noise"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    stage: ClassVar[AnswerStage] = AnswerStage.PERTURB

    step: float = 1.0
    bound: float = 300.0
    steps: int = 1

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        for name in ("step", "bound"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MibenchError(f"defence.{name} must be finite and not negative, got {getattr(self, name)}")
        if self.steps < 1:
            raise MibenchError(f"defence.steps must be 1 or more, got {self.steps}")
        super().check()

    def network(self, classes: int) -> Inverter:
        """A fresh inverter."""
        return initial_weights(Streams(self.seed), self.name, build=lambda: Inverter(classes))

    def learn(self, reference: ReferenceAnswers) -> Mapping[str, Tensor]:
        """Train the inverter to draw public images from their scores."""
        scores, inverter = reference.scores, self.network(reference.scores.shape[1]).to(reference.device)
        inverter.standardise(scores.to(reference.device))

        def loss_of(rows: Tensor) -> Tensor:
            shown = (reference.images[rows].float() / 255).to(reference.device)
            return inversion_loss(inverter, scores[rows].to(reference.device), shown).mean()

        return self.trained(inverter, reference, loss_of)

    def with_weights(self, weights: Mapping[str, Tensor]) -> AnswerFilter:
        """The filter whose inverter has these weights."""
        return LearntInversionNoise(self, weights)


class LearntInversionNoise(InversionNoise):
    """The filter with its inverter.

    Args:
        settings: of the filter.
        weights: as :meth:`InversionNoise.learn` gave them.
    """

    def __init__(self, settings: InversionNoise, weights: Mapping[str, Tensor]) -> None:
        super().__init__(**dataclasses.asdict(settings))
        classes = weights["inner.weight"].shape[1] if "inner.weight" in weights else 1
        self.inverter = settings.network(classes)
        self.restored(self.inverter, weights)

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """``softmax(log p + noise)``; the classifier's logits are ``log p`` but for a constant in each row."""
        if not self.step or not self.bound:
            return scores
        inverter = self.inverter.to(scores.device)
        logits = scores.detach().clamp_min(LEAST).log()
        noise = torch.zeros_like(logits)
        for _ in range(self.steps):
            with torch.enable_grad():
                moved = (logits + noise).requires_grad_()
                loss = inversion_loss(inverter, moved.softmax(dim=1), images.detach()).sum()
                (gradient,) = torch.autograd.grad(loss, moved)
            noise = bounded_noise(logits, moved.detach(), gradient, step=self.step, bound=self.bound)
        return (logits + noise).softmax(dim=1)
