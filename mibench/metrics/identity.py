"""The true identity of a reconstruction, in worlds that know it (``synthfaces``): no judge in between.

A regressor, trained on public identities only, reads the identity vector off an image; it is compared with the ground
truth. Its own error bounds what can be seen and belongs beside every number here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mibench.api import Estimate, MetricInfo, MibenchError, metric
from mibench.data.split import GroundTruth

from . import estimates
from .inputs import ScoringInputs

if TYPE_CHECKING:
    import pandas as pd

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
    """Per sample ``(N,)``: RMSE to the true vector, and the rank of the true identity, 1 = nearest, among everybody and
    among the private people alone."""

    error: Tensor
    rank: Tensor
    rank_private: Tensor

    def columns(self) -> dict[str, Tensor]:
        """As columns of a per-sample table."""
        return {f"true_identity_{name}": column for name, column in self._asdict().items()}


def identity_error(estimated: Tensor, true: Tensor) -> Tensor:
    """Root mean square error ``(N,)`` over the coordinates of estimated and true vectors ``(N, K)``, float64."""
    return (estimated.double() - true.double()).square().mean(dim=1).sqrt()


def identity_ranks(
    estimated: Tensor, labels: Tensor, private: Tensor, foreign: Tensor, error: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ranks ``(N,)``, int64, of the true identity by distance to the estimate: 1 + the identities strictly nearer.

    Args:
        estimated: vectors read off the images ``(N, K)``.
        labels: true classes ``(N,)``, rows of ``private``.
        private: ``(C, K)``.
        foreign: ``(F, K)``.
        error: regressor error per coordinate ``(K,)``; coordinates are divided by it, so that what the regressor
            cannot see hardly counts.

    Returns:
        The rank among private and foreign people, and the rank among private people.
    """
    scale = torch.ones(private.shape[1], dtype=torch.float64) if error is None else error.double().clamp(min=1e-6)
    everyone = torch.cat([private, foreign]).double() / scale
    among_all, among_private = [labels.new_empty(0)], [labels.new_empty(0)]
    for rows, own in zip((estimated.double() / scale).split(256), labels.split(256), strict=True):
        distances = torch.cdist(rows, everyone, compute_mode="donot_use_mm_for_euclid_dist")
        nearer = distances < distances.gather(1, own[:, None])
        among_all.append(1 + nearer.sum(dim=1))
        among_private.append(1 + nearer[:, : len(private)].sum(dim=1))
    return torch.cat(among_all), torch.cat(among_private)


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
    return _compared(estimated, labels, truth)


def no_information(labels: Tensor, truth: IdentityTruth) -> TrueIdentity | None:
    """What a guess that knows the population and no image scores: the mean vector of the foreign people, for each of
    ``labels`` ``(N,)``. None where nobody is foreign."""
    if not len(truth.foreign):
        return None
    return _compared(truth.foreign.mean(dim=0).expand(len(labels), -1), labels, truth)


def _compared(estimated: Tensor, labels: Tensor, truth: IdentityTruth) -> TrueIdentity:
    return TrueIdentity(
        identity_error(estimated, truth.private[labels]),
        *identity_ranks(estimated, labels, truth.private, truth.foreign, truth.error),
    )


RANKS = ("true_identity_rank", "true_identity_rank_private")  # columns; every metric of ranks exists for both
_AMONG = {"": "", "_private": " among private people"}
RECOVERY = "identity recovered (0 none, 1 portraits)"


@metric(
    MetricInfo(
        "true_identity_error",
        "true identity error",
        higher_is_better=False,
        column="true_identity_error",
        topic="identity",
    ),
    *(
        MetricInfo(
            f"true_identity_rank{suffix}",
            f"true identity rank{among} (median)",
            higher_is_better=False,
            topic="identity",
            views=() if suffix else ("summary",),
        )
        for suffix, among in _AMONG.items()
    ),
    *(
        MetricInfo(
            f"true_identity_top1{suffix}",
            f"true identity ranked first{among}",
            percent=True,
            higher_is_better=True,
            column=f"true_identity_rank{suffix}",
            equals=1,
            topic="identity",
            views=() if suffix else ("run", "summary", "comparison"),
            tested=False,  # what the error tests, again: a second test would only enlarge the family
        )
        for suffix, among in _AMONG.items()
    ),
    MetricInfo(
        "true_identity_recovery",
        RECOVERY,
        higher_is_better=True,
        topic="identity",
        views=("run", "summary", "comparison"),
    ),
    MetricInfo(
        "accepted_true_identity_top1",
        "true identity ranked first, if accepted",
        percent=True,
        proportion=True,
        higher_is_better=True,
        topic="identity",
        views=("run", "comparison"),
    ),
)
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """The error, medians and first places of both ranks, the error on the scale of :func:`recovery`, and how many of
    the samples that the judge accepts have rank 1."""
    fields = identity_fields(inputs)
    samples = inputs.samples[inputs.selected]
    if reason := inputs.reasons.get("true_identity_error"):
        return [estimates.null(name, reason, **fields) for name in _NAMES]
    measured = [inputs.mean("true_identity_error", "true_identity_error", **fields)]
    for column in RANKS:
        measured += rank_estimates(inputs, samples, column)
    measured.append(recovery("true_identity_recovery", inputs, samples))
    return [*measured, _accepted("accepted_true_identity_top1", inputs, samples)]


_NAMES = tuple(info.name for info in measure.infos)


def identity_fields(inputs: ScoringInputs) -> estimates.EstimateFields:
    """What every estimate of the true identity says of how it was measured."""
    regressor = inputs.identity_params.get("regressor")
    return {
        "extractor": regressor if isinstance(regressor, str) else None,
        "params": dict(inputs.identity_params),
    }


def rank_estimates(inputs: ScoringInputs, samples: pd.DataFrame, column: str, prefix: str = "") -> list[Estimate]:
    """The median of a column of :data:`RANKS` and its share of first places over the rows of ``samples``.

    ``prefix`` goes before the names of the estimates.
    """
    fields = identity_fields(inputs)
    names = (f"{prefix}{column}", f"{prefix}{column.replace('rank', 'top1')}")
    if reason := inputs.fixed.get(column):
        return [estimates.not_informative(name, reason, **fields) for name in names]
    identities = samples["identity"].to_numpy(dtype=np.int64)
    ranks = samples[column].to_numpy(dtype=np.float64)
    first = (ranks == 1).astype(np.float64)
    return [
        estimates.median(names[0], ranks, identities, **inputs.intervals, **fields),
        estimates.mean(names[1], first, identities, proportion=True, **inputs.intervals, **fields),
    ]


def recovery(name: str, inputs: ScoringInputs, samples: pd.DataFrame) -> Estimate:
    """The true identity error on a scale from no information (0) to portraits of the private people (1).

    ``sum(E0 - E) / sum(E0 - E1)`` over identities, with E the mean error of ``samples``, E0 that of the control
    ``no_information`` and E1 that of the control ``private_portraits``. It is negative where images mislead more than
    no image would.
    """
    fields = identity_fields(inputs)
    least, most = (inputs.controls.get(control) for control in ("no_information", "private_portraits"))
    if least is None or most is None:
        return estimates.null(name, "the scale needs portraits of the private people, and foreign people", **fields)
    none, own, best = (
        table.groupby("identity")["true_identity_error"].mean().astype(float) for table in (least, samples, most)
    )
    gained, gain = (np.asarray((none - other).loc[own.index], dtype=np.float64) for other in (own, best))
    return estimates.ratio(name, gained, gain, **inputs.intervals, **fields)


def _accepted(name: str, inputs: ScoringInputs, samples: pd.DataFrame) -> Estimate:
    fields = identity_fields(inputs)
    fields["extractor"] = f"{inputs.extractor}; {fields['extractor']}"
    for column in ("hit1", "true_identity_rank"):
        if reason := inputs.fixed.get(column):
            return estimates.not_informative(name, reason, **fields)
    accepted = samples[samples["hit1"].to_numpy(dtype=bool)]
    if accepted.empty:
        return estimates.null(name, "the judge accepts no sample", **fields)
    first = (accepted["true_identity_rank"].to_numpy(dtype=np.float64) == 1).astype(np.float64)
    identities = accepted["identity"].to_numpy(dtype=np.int64)
    return estimates.mean(name, first, identities, proportion=True, **inputs.intervals, **fields)
