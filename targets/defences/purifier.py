"""A purifier of scores (Yang, Shao, Xuan, Chang and Zhang, "Defending Model Inversion and Membership Inference Attacks
via Prediction Purification", arXiv 2005.03915).

A small network maps the scores p of the classifier to others, q: its loss, over public reference images, keeps the
label, ``CE(q, argmax p)``, and the scores, ``lambda ||q - p||^2``. What tells images of one label apart has to pass
through few hidden units.
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


def purifying_loss(purified: Tensor, scores: Tensor, weight: float) -> Tensor:
    """``CE(q, argmax p) + weight ||q - p||^2``, the mean over the batch of both.

    Args:
        purified: the logarithms of q, ``(B, C)``.
        scores: p, ``(B, C)``.
        weight: lambda.
    """
    label = nn.functional.nll_loss(purified, scores.argmax(dim=1))
    return label + weight * (purified.exp() - scores).square().sum(dim=1).mean()


class PurifyingNetwork(nn.Module):
    """Scores ``(N, C)`` and an embedding of their label, through one hidden layer, to log scores ``(N, C)``."""

    def __init__(self, classes: int, *, hidden: int, embedding: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.label = nn.Embedding(classes, embedding)
        self.inner = nn.Linear(classes + embedding, hidden)
        self.outer = nn.Linear(hidden, classes)

    def forward(self, scores: Tensor) -> Tensor:
        """log q ``(N, C)``."""
        seen = torch.cat([scores, self.label(scores.argmax(dim=1))], dim=1)
        change = self.outer(self.inner(seen).relu())
        if self.residual:
            change = change + scores.clamp_min(LEAST).log()
        logarithms: Tensor = change.log_softmax(dim=1)
        return logarithms


@dataclass(frozen=True, kw_only=True)
class Purifier(LearntFilter):
    """Answer what a small network makes of the scores (prediction purification, arXiv 2005.03915).

    It is trained on public images when the card is made, and its weights are stored with the target's.

    Attributes:
        weight: lambda, of the squared distance to the scores beside the cross entropy of their label.
        hidden: units that everything passes through, and
        embedding: coordinates of the label beside the scores.
        residual: add the change to the logarithms of the scores, as the MIA toolbox adds it to the logits; then nothing
            has to pass through the hidden units.
        images: public ones to learn from, the first.
        epochs, batch_size: of the training, by Adam at 1e-3.
        seed: of the initial weights and the order.
    """

    name: ClassVar[str] = "purifier"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    stage: ClassVar[AnswerStage] = AnswerStage.PERTURB

    weight: float = 10.0
    hidden: int = 64
    embedding: int = 32
    residual: bool = False
    epochs: int = 40

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.weight < math.inf:
            raise MibenchError(f"defence.weight must be finite and not negative, got {self.weight}")
        for name in ("hidden", "embedding"):
            if getattr(self, name) < 1:
                raise MibenchError(f"defence.{name} must be 1 or more, got {getattr(self, name)}")
        super().check()

    def network(self, classes: int) -> PurifyingNetwork:
        """A fresh one."""
        return initial_weights(
            Streams(self.seed),
            self.name,
            build=lambda: PurifyingNetwork(
                classes, hidden=self.hidden, embedding=self.embedding, residual=self.residual
            ),
        )

    def learn(self, reference: ReferenceAnswers) -> Mapping[str, Tensor]:
        """Train the network on the scores; the images are not looked at."""
        scores = reference.scores.to(reference.device)
        network = self.network(scores.shape[1]).to(reference.device)

        def loss_of(rows: Tensor) -> Tensor:
            seen = scores[rows.to(scores.device)]
            return purifying_loss(network(seen), seen, self.weight)

        return self.trained(network, reference, loss_of)

    def with_weights(self, weights: Mapping[str, Tensor]) -> AnswerFilter:
        """The filter that answers through these weights."""
        return LearntPurifier(self, weights)


class LearntPurifier(Purifier):
    """A purifier with its weights.

    Args:
        settings: of the filter.
        weights: as :meth:`Purifier.learn` gave them.
    """

    def __init__(self, settings: Purifier, weights: Mapping[str, Tensor]) -> None:
        super().__init__(**dataclasses.asdict(settings))
        classes = weights["outer.bias"].shape[0] if "outer.bias" in weights else 1
        self.acting = settings.network(classes)
        self.restored(self.acting, weights)

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """q, rows that sum to 1."""
        purified: Tensor = self.acting.to(scores.device)(scores).exp()
        return purified
