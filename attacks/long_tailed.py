"""SMILE's surrogate: experts that learn scores in which most classes are rare (L1ziang/SMILE, released code).

Legend: N images of the pool, B of a batch, C classes, M experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from mibench.api import ClassifierOutput

from .surrogate_networks import SmallNetwork

LEAST = 1e-30  # of a score before its logarithm
TEMPERATURE = 0.5  # released code
BETA, COUNTED = 0.9, 10  # released code: of the effective number of images; classes of an image that count
BOUND = 20.0  # released code: of an expert's logits over the temperature, in the term of diversity
ALIKE = 1e-6  # least divergence that diversity divides by


class Experts(nn.Module):
    """One body and ``M`` heads of two layers, which answer together with the mean of their logits.

    Args:
        experts: ``M``.
        num_classes: ``C``.
        width: of the body (:class:`SmallNetwork`).
    """

    def __init__(self, experts: int, num_classes: int, width: int) -> None:
        super().__init__()
        network = SmallNetwork(num_classes, width)
        features = network.head.in_features
        self.body = network.body
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.Linear(features, num_classes)
            )
            for _ in range(experts)
        )

    def each(self, images: Tensor) -> Tensor:
        """Logits of each expert ``(M, B, C)`` for images ``(B, 3, H, W)`` in [0, 1]."""
        features = self.body((images - 0.5) / 0.25)
        return torch.stack([expert(features) for expert in self.experts])

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Mean logits ``(B, C)``, in place of features as well."""
        logits = self.each(images).mean(dim=0)
        return ClassifierOutput(logits, logits)


def class_weights(scores: Tensor) -> Tensor:
    """``(1 - b) / (1 - b^(n + 1))`` for each class ``(C,)``: the inverse of its effective number of images, ``n`` being
    how many of the scores ``(N, C)`` have it among their ten highest."""
    classes = scores.shape[1]
    named = scores.topk(min(COUNTED, classes), dim=1).indices.flatten()
    counts = torch.bincount(named, minlength=classes).double()
    return ((1 - BETA) / (1 - BETA ** (counts + 1))).float()


def long_tailed_loss(
    logits: Tensor, scores: Tensor, weights: Tensor, *, hard: float, diversity: float, batch_weights: bool
) -> Tensor:
    """What the experts are trained on.

    Args:
        logits: of each expert ``(M, B, C)``.
        scores: the victim's ``(B, C)``.
        weights: of each class ``(C,)``.
        hard: weight of the cross entropy with the victim's class, beside the divergence from its scores.
        diversity: weight of the sum over experts of the inverse divergence from their mean; without effect for one.
        batch_weights: the sum of a batch's weights multiplies its mean loss (released). False: each image has its own.

    Returns:
        a number.
    """
    targets, own = scores.argmax(dim=1), weights[scores.argmax(dim=1)]
    soft = (scores.clamp(min=LEAST).log() / TEMPERATURE).softmax(dim=1)
    cooled = logits / TEMPERATURE
    loss = logits.new_zeros(logits.shape[1])
    for expert, cool in zip(logits, cooled, strict=True):
        divergence = kl_div(cool.log_softmax(dim=1), soft, reduction="none").sum(dim=1)
        loss = loss + divergence + hard * cross_entropy(expert, targets, reduction="none")
    total = loss.mean() * own.sum() if batch_weights else (own * loss).sum()
    if diversity and len(logits) > 1:
        mean = (logits.mean(dim=0) / TEMPERATURE).log_softmax(dim=1)
        for cool in cooled:
            away = kl_div(mean, cool.clamp(-BOUND, BOUND).softmax(dim=1), reduction="batchmean")
            total = total + diversity / away.clamp(min=ALIKE)
    return total
