"""IMR: the intra-class multicentric representation of DMMIA (the paper's learnable prototypes).

Every identity of a unit has ``P`` prototypes in feature space, the first ``positives`` of which stand for its concepts
and the others for everything else. Legend: U identities, B latents of each, P prototypes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mibench.rng import Streams


@dataclass(frozen=True)
class LikelihoodForm:
    """The form of the likelihood of prototypes; the defaults are the paper's, the alternatives the released code's.

    Attributes:
        normalise: compare with prototypes of unit length.
        likelihood: ``"softmax"`` sums over prototypes; ``"mean"`` averages over the positive and over the negative
            ones first (the same for IMR when half of the prototypes are positive).
        objective: ``"neg_log"`` minimises ``-log p``; ``"ratio"`` minimises ``p`` itself (the sign is reversed).
    """

    normalise: bool = True
    likelihood: str = "softmax"
    objective: str = "neg_log"

    def objective_of(self, own: Tensor, others: Tensor) -> Tensor:
        """The objective from the log weights of the positive (``own``) and of the negative prototypes (``others``).

        ``-log p = softplus(others - own)`` and ``p = sigmoid(own - others)``.
        """
        if self.objective == "ratio":
            return torch.sigmoid(own - others)
        return nn.functional.softplus(others - own)


def draw_prototypes(count: int, dim: int, std: float, labels: Sequence[int], streams: Streams) -> Tensor:
    """Initial prototypes ``(U, count, dim)``, normal with the given standard deviation, a stream per identity."""
    drawn = [torch.randn(count, dim, generator=streams.generator("identity", y, "prototypes")) * std for y in labels]
    return torch.stack(drawn)


def imr_loss(
    features: Tensor,
    prototypes: Tensor,
    positives: int,
    temperature: float,
    form: LikelihoodForm | None = None,
) -> Tensor:
    """L_imr of every sample.

    ``-log( sum_{j < positives} exp S(h, w_j) / sum_j exp S(h, w_j) )`` with ``S(a, b) = <a, b> / temperature``.

    Args:
        features: ``(U, B, D)``, already normalised where the attack normalises features.
        prototypes: ``(U, P, D)``.
        positives: how many of the first prototypes are positive.
        temperature: of the similarity.
        form: of the likelihood; the paper's when None.

    Returns:
        ``(U, B)``.
    """
    form = form or LikelihoodForm()
    with torch.autocast(features.device.type, enabled=False):  # similarities over a small temperature need float32
        return _imr_loss(features, prototypes, positives, temperature, form)


def _imr_loss(features: Tensor, prototypes: Tensor, positives: int, temperature: float, form: LikelihoodForm) -> Tensor:
    if form.normalise:
        prototypes = nn.functional.normalize(prototypes, dim=2)
    similarity = torch.bmm(features, prototypes.transpose(1, 2)) / temperature
    positive = similarity[..., :positives].logsumexp(dim=2)
    negative = similarity[..., positives:].logsumexp(dim=2)
    if form.likelihood == "mean":
        positive = positive - math.log(positives)
        negative = negative - math.log(prototypes.shape[1] - positives)
    return form.objective_of(positive, negative)


def representation(features: Tensor, logits: Tensor, kind: Literal["normalised", "raw", "logits"]) -> Tensor:
    """What prototypes are compared with ``(N, D)``, float32: ``h / |h|``, ``h`` or ``o / |o|``."""
    if kind == "raw":
        return features.float()
    return nn.functional.normalize((logits if kind == "logits" else features).float(), dim=1)
