"""The constant that logits are divided by so that a softmax of them is not saturated.

A classifier whose logits are large (negative label smoothing lets them grow for as long as it is trained) answers every
image with a probability of 1: the cross entropy has no gradient left, and the largest confidences of a selection are
all alike. Division by a constant changes neither the order of the classes nor where the loss is least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.api import Context, MibenchError, Victim

from .answers import Answered
from .initial_selection import pool_confidence

MEDIAN = 0.9  # of the largest probability, over the pool
LEAST, MOST = 1e-9, 1e9  # constants that are looked at
HALVINGS = 60


def unsaturating(logits: Tensor, median: float = MEDIAN) -> float:
    """The constant T at which the median over images of the largest ``softmax(o / T)`` is ``median``.

    Args:
        logits: ``(N, C)``.
        median: above 1 / C, below 1.

    Raises:
        MibenchError: no constant does it: the logits of half of the images are all alike, or not finite.
    """
    logits = logits.double()
    low, high = LEAST, MOST  # the median falls as T grows

    def largest(scale: float) -> float:
        return float((logits / scale).softmax(dim=1).amax(dim=1).median())

    if not largest(low) > median > largest(high):
        raise MibenchError(
            f"no constant brings the median of the pool's largest probabilities to {median}",
            cure="set attack.logit_scale to a number",
        )
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if largest(middle) > median else (low, middle)
    return float((low * high) ** 0.5)


@torch.no_grad()
def pool_confidence_and_scale(
    context: Context, latents: Tensor, psi: float | None, *, text: str
) -> tuple[Tensor, float]:
    """The constant of the pool's logits, and :func:`~mibench.attacks.initial_selection.pool_confidence` at that scale.

    The victim is shown no image more. It has to grant gradients: logits cannot be had from saturated scores.
    """
    shown: list[Tensor] = []

    def remembered(victim: Victim, images: Tensor) -> Tensor:
        logits = victim.logits(images)
        shown.append(logits.float().cpu())
        return logits

    pool_confidence(context, latents, psi, text=text, answer=remembered)
    scale = unsaturating(torch.cat(shown))
    both = [(part / scale).softmax(dim=1) for part in shown]  # image and mirror image of each micro-batch in turn
    return torch.cat([(one + mirrored) / 2 for one, mirrored in zip(both[::2], both[1::2], strict=True)]), scale


def scaled_answers(scale: float) -> Answered:
    """``softmax(o / scale)`` of a victim that grants gradients: confidence that tells saturated answers apart."""

    def answered(victim: Victim, images: Tensor) -> Tensor:
        with torch.no_grad():
            return (victim.logits(images) / scale).softmax(dim=1)

    return answered
