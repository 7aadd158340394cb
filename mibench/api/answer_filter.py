"""Answer-time filters: defences that leave the classifier as it is and change what it answers.

A filter acts for an adversary who sees scores or labels. Who holds the network differentiates through its logits and
never meets a filter, so a filtered target grants no gradients.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .defence import Defence
from .victim import Access


class AnswerStage(enum.IntEnum):
    """Where a filter acts on the way from logits to an answer.

    Several filters act in this order, whatever the order they were named in; those of one stage act by their names.
    """

    LOGITS = 1  # before the softmax
    PERTURB = 2  # changes scores
    SELECT = 3  # leaves scores out
    QUANTISE = 4  # answers fewer digits
    WITHHOLD = 5  # answers no scores at all


@dataclass(frozen=True, kw_only=True)
class ReferenceAnswers:
    """What a filter may learn from: public images, and what the classifier behind it answers to them.

    Attributes:
        images: uint8 ``(N, 3, S, S)``, of the classifier's size.
        scores: float32 ``(N, C)`` in [0, 1], as the filters before it leave them, on the CPU.
        device: where to compute.
        progress: hears of steps done, of all steps, and a text.
    """

    images: Tensor
    scores: Tensor
    device: torch.device
    progress: Callable[[int, int, str], None] = lambda done, total, text: None


@dataclass(frozen=True, kw_only=True)
class AnswerFilter(Defence):
    """A filter and its settings. A subclass overrides :meth:`logits` or :meth:`scores`.

    The label that a filtered classifier answers is that of the unfiltered logits. A filter with weights of its own
    overrides :attr:`reference_images`, :meth:`learn` and :meth:`with_weights`; they are stored with the target's.

    Attributes:
        stage: where it acts.
        grants: the most that an adversary can still ask for: scores, or labels.
        eight_bits: the classifier is shown images of 8 bits a channel. A filter that depends on the rounded image needs
            that: else two images that it takes for one would get two answers, whose difference is free of the filter.
    """

    stage: ClassVar[AnswerStage]
    grants: ClassVar[Access] = Access.SCORES
    eight_bits: ClassVar[bool] = False

    @property
    def reference_images(self) -> int:
        """How many public images :meth:`learn` wants, the first ones; 0: it learns nothing."""
        return 0

    def learn(self, reference: ReferenceAnswers) -> Mapping[str, Tensor]:
        """Weights of the filter's own, on the CPU; the same every time for the same reference."""
        return {}

    def with_weights(self, weights: Mapping[str, Tensor]) -> AnswerFilter:
        """The filter that acts by these weights, which :meth:`learn` gave; without :meth:`learn`, itself.

        Raises:
            MisfitError: they are those of other settings.
        """
        return self

    def logits(self, logits: Tensor) -> Tensor:
        """Logits ``(N, C)`` in the place of the network's. Row by row: an answer never depends on its batch."""
        return logits

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """Scores in the place of those that the stages before left, row by row.

        Args:
            scores: float32 ``(N, C)`` in [0, 1].
            images: float32 ``(N, 3, H, W)`` in [0, 1], what was asked about.

        Returns:
            float32 ``(N, C)`` in [0, 1]; rows need not sum to 1.
        """
        return scores


class FilteredAnswers:
    """The answers of a victim behind filters, which it calls with logits and images.

    Args:
        filters: one or more, in any order.
    """

    def __init__(self, filters: Iterable[AnswerFilter]) -> None:
        self.filters = tuple(sorted(filters, key=lambda one: (one.stage, one.name)))

    @property
    def grants(self) -> Access:
        """The most that all filters grant."""
        return min((one.grants for one in self.filters), default=Access.GRADIENTS)

    def received(self, images: Tensor) -> Tensor:
        """The images ``(N, 3, H, W)`` in [0, 1] that the classifier is shown, of 8 bits where a filter needs that."""
        if not any(one.eight_bits for one in self.filters):
            return images.clone()  # filters are shown them, and they belong to the attack
        return (images.clamp(0, 1) * 255).round() / 255

    def __call__(self, logits: Tensor, images: Tensor) -> Tensor:
        """Answers, float32 ``(N, C)``, from logits ``(N, C)`` of images ``(N, 3, H, W)``."""
        logits = logits.float()
        for one in self.filters:
            logits = one.logits(logits)
        scores = logits.softmax(dim=1)
        for one in self.filters:
            scores = one.scores(scores, images)
        return scores
