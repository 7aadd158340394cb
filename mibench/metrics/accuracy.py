"""Attack accuracy: the share of reconstructions that a judge, never seen by the attack, takes for their identity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mibench.api import Estimate, MetricInfo, metric

from . import estimates
from .inputs import ScoringInputs

LEGACY_BATCH = 60  # identities per batch in the published 300-identity protocol


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the ``k`` largest logits, bool ``(N,)``.

    Ties count against the attack for ``k`` = 1 unless the label is the first of the largest (as ``argmax`` does), and
    a row of NaN is a miss. With fewer than ``k`` classes every row of finite logits is a hit.
    """
    label_logits = logits.gather(1, labels.view(-1, 1))
    index = torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > label_logits) | ((logits == label_logits) & (index < labels.view(-1, 1)))
    return (ahead.sum(dim=1) < k) & ~logits.isnan().any(dim=1)


def always_hit(k: int, classes: int, network: str) -> str | None:
    """Why being among the ``k`` best says nothing with so few classes; None where it does."""
    if classes > k:
        return None
    counted = "one class" if classes == 1 else f"{classes} classes"
    rank = "the best" if k == 1 else f"among the {k} best"
    return f"{network} knows {counted}, so that every image is {rank}"


def label_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the label, float32 ``(N,)`` in [0, 1]."""
    return logits.softmax(dim=1).gather(1, labels.view(-1, 1)).squeeze(1)


class Verdicts(NamedTuple):
    """What logits say of labels, a number for each row: stored instead of logits, which would not fit in memory."""

    predicted: Tensor  # int64
    hit1: Tensor  # bool, as hit5
    hit5: Tensor
    confidence: Tensor  # float32

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Verdicts:
        """Of logits ``(N, C)`` and labels ``(N,)``."""
        return cls(
            logits.argmax(dim=1),
            top_k_hits(logits, labels, 1),
            top_k_hits(logits, labels, 5),
            label_confidence(logits, labels),
        )

    @classmethod
    def joined(cls, parts: Iterable[Verdicts]) -> Verdicts:
        """Of several parts, at least one."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def draw_spread(hits: NDArray[np.generic]) -> float:
    """Sample standard deviation, over draws, of the accuracy over identities; hits ``(I, m)`` of 0 and 1."""
    return float(hits.astype(np.float64).mean(axis=0).std(ddof=1))


def legacy_spread(hits: NDArray[np.generic], batch: int = LEGACY_BATCH) -> float:
    """The field's "± std": sample std over draws inside each batch of identities, averaged over batches; a fraction.

    It measures neither seeds nor identities and shrinks when identities are added; kept for comparison only
    (LOMMA and BiDO use the n-1 form).
    """
    return float(np.mean([draw_spread(hits[i : i + batch]) for i in range(0, len(hits), batch)]))


@metric(
    MetricInfo("acc1", "acc@1", percent=True, proportion=True, higher_is_better=True, column="hit1", topic="accuracy"),
    MetricInfo("acc5", "acc@5", percent=True, proportion=True, higher_is_better=True, column="hit5", topic="accuracy"),
    MetricInfo(
        "acc1_all",
        "acc@1, before selection",
        percent=True,
        proportion=True,
        higher_is_better=True,
        topic="accuracy",
        views=(),
    ),
    MetricInfo(
        "target_acc1",
        "attacked model agrees",
        percent=True,
        proportion=True,
        higher_is_better=True,
        column="target_hit1",
        topic="victim",
        views=(),
        tested=False,
    ),
    MetricInfo(
        "target_confidence",
        "attacked model's confidence",
        proportion=True,
        higher_is_better=True,
        column="target_confidence",
        topic="victim",
        views=(),
        tested=False,
    ),
)
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """acc1 and acc5 over selected samples, acc1_all over every sample, and what the attacked model itself says."""
    return [
        inputs.mean("acc1", "hit1"),
        inputs.mean("acc5", "hit5"),
        inputs.mean("acc1_all", "hit1", every=True),
        inputs.mean("target_acc1", "target_hit1", extractor="attacked model"),
        # its own interval stays the bootstrap, so that it compares with that of every run so far
        inputs.mean("target_confidence", "target_confidence", proportion=False, extractor="attacked model"),
    ]


@metric(
    MetricInfo("acc1_std_draws", "acc@1, std over ranks", topic="draws", views=()),
    MetricInfo("acc1_std_legacy", "acc@1, std over ranks (legacy)", topic="draws", views=()),
)
def measure_legacy(inputs: ScoringInputs) -> list[Estimate]:
    """acc1_std_legacy and acc1_std_draws: spreads over the rank of a sample, as published; no interval."""
    chosen = inputs.samples[inputs.selected]
    table = chosen.pivot_table(index="identity", columns="sample", values="hit1", aggfunc="mean", observed=True)
    fields: estimates.EstimateFields = {"extractor": inputs.extractor, "unit": "draw"}
    names = ("acc1_std_legacy", "acc1_std_draws")
    if reason := inputs.fixed.get("hit1"):
        return [estimates.not_informative(name, reason, **fields) for name in names]
    if table.shape[1] < 2 or bool(table.isna().to_numpy().any()):
        reason = "a spread over draws needs at least two selected samples and as many for every identity"
        return [estimates.null(name, reason, **fields) for name in names]
    hits = table.to_numpy(dtype=np.float64)
    draws = int(hits.shape[1])
    legacy = Estimate(names[0], legacy_spread(hits), n=draws, **fields)
    return [
        replace(legacy, params={"batch_identities": LEGACY_BATCH}),
        Estimate(names[1], draw_spread(hits), n=draws, **fields),
    ]
