"""Diversity of the reconstructions of one identity (defined by mibench: no published code measures DMMIA's "DIV")."""

from __future__ import annotations

import math

from torch import Tensor

from mibench.api import Estimate, MetricInfo, metric

from . import estimates
from .inputs import ScoringInputs
from .prdc import pairwise


def mean_pairwise_distance(features: Tensor) -> float:
    """Mean L2 distance over the pairs of different rows of ``(N, D)``; NaN for fewer than two rows."""
    n = features.shape[0]
    if n < 2:
        return math.nan
    return float(pairwise(features, features).fill_diagonal_(0).sum()) / (n * (n - 1))


@metric(
    MetricInfo("div_feat", "diversity", higher_is_better=True, topic="diversity", views=()),
    MetricInfo(
        "div_feat_ratio",
        "diversity ÷ private",
        higher_is_better=True,
        topic="diversity",
        views=("summary", "comparison"),
    ),
)
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """div_feat (mean pairwise L2 of judge features per identity) and its ratio to that of the private images.

    A ratio of 1 means that reconstructions of one identity vary as much as its private images do; near 0, they
    collapse to one image. Identities with fewer than two images on either side are skipped and counted.
    """
    fakes: list[float] = []
    reals: list[float] = []
    skipped = 0
    for fake, real in inputs.per_identity().values():
        if min(fake.shape[0], real.shape[0]) < 2:
            skipped += 1
            continue
        fakes.append(mean_pairwise_distance(fake))
        reals.append(mean_pairwise_distance(real))
    fields: estimates.EstimateFields = {
        "extractor": inputs.extractor,
        "params": {"skipped_identities": skipped, "definition": "mibench"},
    }
    if not fakes:
        reason = f"all {skipped} identities have fewer than two selected reconstructions or private images"
        return [estimates.null(name, reason, **fields) for name in ("div_feat", "div_feat_ratio")]
    return [
        estimates.ratio("div_feat", fakes, [1.0] * len(fakes), **inputs.intervals, **fields),
        estimates.ratio("div_feat_ratio", fakes, reals, **inputs.intervals, **fields),
    ]
