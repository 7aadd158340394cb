"""The true identity of a reconstruction, in worlds that know it (``synthfaces``): no judge in between.

A regressor, trained on public identities only, reads the identity vector off an image; it is compared with the ground
truth. Its own error bounds what can be seen and belongs beside every number here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mibench.api import Estimate, MetricInfo, MibenchError, metric
from mibench.data.split import GroundTruth

from . import estimates
from .inputs import ScoringInputs

FOREIGN = 1000


@dataclass(frozen=True, kw_only=True)
class IdentityTruth:
    """Ground-truth vectors and a regressor that estimates them from images.

    Attributes:
        private: vectors of *all* private identities ``(C, K)``; row = class.
        foreign: vectors of identities that appear nowhere in the data ``(F, K)``.
        regress: uint8 images ``(N, 3, H, W)`` -> estimated vectors ``(N, K)``.
        regressor: its name, for the record.
        error: its RMSE per coordinate ``(K,)`` on held-out public identities, or None (all coordinates weigh alike).
    """

    private: Tensor
    foreign: Tensor
    regress: Callable[[Tensor], Tensor]
    regressor: str = "identity regressor"
    error: Tensor | None = None

    @classmethod
    def of(
        cls,
        truth: GroundTruth,
        regress: Callable[[Tensor], Tensor],
        *,
        regressor: str = "identity regressor",
        error: Tensor | None = None,
        foreign: int = FOREIGN,
    ) -> IdentityTruth:
        """The vectors of a data set, with ``foreign`` distractors."""
        return cls(
            private=truth.identity_vectors(),
            foreign=truth.foreign_identity_vectors(foreign),
            regress=regress,
            regressor=regressor,
            error=error,
        )


class TrueIdentity(NamedTuple):
    """Per sample: RMSE to the true vector ``(N,)`` and rank of the true identity ``(N,)``, 1 = nearest of all."""

    error: Tensor
    rank: Tensor


def identity_error(estimated: Tensor, true: Tensor) -> Tensor:
    """Root mean square error ``(N,)`` over the coordinates of estimated and true vectors ``(N, K)``, float64."""
    return (estimated.double() - true.double()).square().mean(dim=1).sqrt()


def identity_rank(
    estimated: Tensor, labels: Tensor, private: Tensor, foreign: Tensor, error: Tensor | None = None
) -> Tensor:
    """Rank ``(N,)``, int64, of the true identity by distance to the estimate: 1 + the identities strictly nearer.

    Args:
        estimated: vectors read off the images ``(N, K)``.
        labels: true classes ``(N,)``, rows of ``private``.
        private: ``(C, K)``.
        foreign: ``(F, K)``.
        error: regressor error per coordinate ``(K,)``; coordinates are divided by it, so that what the regressor
            cannot see hardly counts.
    """
    scale = torch.ones(private.shape[1], dtype=torch.float64) if error is None else error.double().clamp(min=1e-6)
    everyone = torch.cat([private, foreign]).double() / scale
    ranks = []
    for rows, own in zip((estimated.double() / scale).split(256), labels.split(256), strict=True):
        distances = torch.cdist(rows, everyone, compute_mode="donot_use_mm_for_euclid_dist")
        true = distances.gather(1, own[:, None])
        ranks.append(1 + (distances < true).sum(dim=1))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.int64)


def true_identity(images: Tensor, labels: Tensor, truth: IdentityTruth) -> TrueIdentity:
    """Error and rank of uint8 images ``(N, 3, H, W)`` against the truth of their ``labels`` ``(N,)``.

    Raises:
        MibenchError: the regressor's vectors do not fit the ground truth, or a label has no vector.
    """
    if len(labels) and int(labels.max()) >= truth.private.shape[0]:
        raise MibenchError(
            f"class {int(labels.max())} has no ground-truth vector: the data set gave {truth.private.shape[0]}"
        )
    estimated = truth.regress(images).detach().cpu()
    expected = (images.shape[0], truth.private.shape[1])
    if tuple(estimated.shape) != expected:
        raise MibenchError(
            f"regressor {truth.regressor!r} gave vectors of shape {tuple(estimated.shape)}, expected {expected}; "
            "it was trained for another data set"
        )
    return TrueIdentity(
        error=identity_error(estimated, truth.private[labels]),
        rank=identity_rank(estimated, labels, truth.private, truth.foreign, truth.error),
    )


@metric(
    MetricInfo(
        "true_identity_error",
        "true identity error",
        higher_is_better=False,
        column="true_identity_error",
        topic="identity",
    ),
    MetricInfo("true_identity_rank", "true identity rank (median)", higher_is_better=False, topic="identity", views=()),
    MetricInfo(
        "true_identity_top1",
        "true identity ranked first",
        percent=True,
        higher_is_better=True,
        column="true_identity_rank",
        equals=1,
        topic="identity",
        views=("run", "comparison"),
        tested=False,  # what the error tests, again: a second test would only enlarge the family
    ),
)
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """true_identity_error, the median of true_identity_rank and the share of samples with rank 1."""
    regressor = inputs.identity_params.get("regressor")
    fields: estimates.EstimateFields = {
        "extractor": regressor if isinstance(regressor, str) else None,
        "params": dict(inputs.identity_params),
    }
    names = ("true_identity_error", "true_identity_rank", "true_identity_top1")
    if reason := inputs.reasons.get("true_identity_error"):
        return [estimates.null(name, reason, **fields) for name in names]
    error = inputs.mean(names[0], "true_identity_error", **fields)
    if reason := inputs.fixed.get("true_identity_rank"):
        return [error, *(estimates.not_informative(name, reason, **fields) for name in names[1:])]
    chosen = inputs.samples[inputs.selected]
    identities = chosen["identity"].to_numpy(dtype=np.int64)
    ranks = chosen["true_identity_rank"].to_numpy(dtype=np.float64)
    top1 = (ranks == 1).astype(np.float64)
    return [
        error,
        estimates.median(names[1], ranks, identities, **inputs.intervals, **fields),
        estimates.mean(names[2], top1, identities, proportion=True, **inputs.intervals, **fields),
    ]
