"""The Fréchet distance between two sets of features, seen as Gaussians (Heusel et al. 2017).

``|m1 - m2|² + tr(S1) + tr(S2) - 2 tr((S1 S2)^½)`` with unbiased covariances: the formula of pytorch-fid, without its
matrix square root, which fails for singular covariances and, in version 0.3.0, with recent scipy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mibench.api import Estimate, MetricInfo, MibenchError, View, metric

from . import estimates
from .inputs import ScoringInputs


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two sets of features ``(N, D)`` and ``(M, D)``, each with at least two rows.

    ``tr((S1 S2)^½)`` is the sum of the singular values (the nuclear norm) of ``Xc Ycᵀ / sqrt((N-1)(M-1))``, where
    ``Xc`` and ``Yc`` are centred: exact, and cheap for few samples. With more samples than dimensions the two ``D×D``
    covariances are smaller; then it is the sum of the roots of the eigenvalues of ``S1^½ S2 S1^½``.

    Raises:
        MibenchError: dimensions differ, fewer than two rows, or a value that is not finite.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise MibenchError(f"features of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be compared")
    n, m = first.shape[0], second.shape[0]
    if min(n, m) < 2:
        raise MibenchError(f"a covariance needs at least two images on each side, got {n} and {m}")
    if not (bool(first.isfinite().all()) and bool(second.isfinite().all())):
        raise MibenchError("features contain values that are not finite", cure="check the images and the extractor")
    x, y = first.double(), second.double()
    shift = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    x = (x - x.mean(dim=0)) / (n - 1) ** 0.5
    y = (y - y.mean(dim=0)) / (m - 1) ** 0.5
    spread = x.square().sum() + y.square().sum()
    root = torch.linalg.svdvals(x @ y.T).sum() if min(n, m) <= x.shape[1] else _root_trace(x, y)
    return max(0.0, float(shift + spread - 2 * root))


def _root_trace(x: Tensor, y: Tensor) -> Tensor:
    """Trace of the root of ``S1 S2`` through two symmetric eigenproblems; ``x``, ``y`` are centred and scaled."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    half = vectors * values.clamp(min=0).sqrt()
    product = half.T @ (y.T @ y) @ half
    roots: Tensor = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt()
    return roots.sum()


def _info(name: str, title: str, *views: View) -> MetricInfo:
    return MetricInfo(name, title, higher_is_better=False, topic="distribution", views=views)


@metric(_info("frechet_judge", "Fréchet distance (judge)", "summary", "comparison"))
def measure_judge(inputs: ScoringInputs) -> list[Estimate]:
    """frechet_judge: selected reconstructions against private training images, in judge features."""
    chosen = torch.from_numpy(inputs.selected.copy())
    labels = _labels(inputs)[chosen]
    return [
        _estimate(
            "frechet_judge",
            (inputs.features[chosen], inputs.private_features, inputs.private_labels),
            labels,
            inputs.extractor,
        )
    ]


@metric(_info("fid", "FID", "summary"))
def measure_fid(inputs: ScoringInputs) -> list[Estimate]:
    """fid: Inception pool3 features of 8-bit images in [0, 1]; real = private training images at native size."""
    return [_fid("fid", inputs, "unit")]


@metric(_info("fid_ppa_legacy", "FID (PPA legacy)"))
def measure_fid_ppa_legacy(inputs: ScoringInputs) -> list[Estimate]:
    """fid_ppa_legacy: images in [-1, 1] fed where [0, 1] is expected, as Plug & Play Attacks does."""
    return [_fid("fid_ppa_legacy", inputs, "ppa-legacy")]


@metric(_info("fid_success_only", "FID (recognised reconstructions only)"))
def measure_fid_success_only(inputs: ScoringInputs) -> list[Estimate]:
    """fid_success_only: only reconstructions that the judge accepts, as LOMMA and PLG-MI report."""
    return [_fid("fid_success_only", inputs, "unit", success_only=True)]


def _fid(name: str, inputs: ScoringInputs, scaling: str, *, success_only: bool = False) -> Estimate:
    if inputs.inception is None:
        reason = inputs.reasons.get("fid", "no Inception weights were given")
        return estimates.null(name, reason, extractor=inputs.inception_name)
    fake, real, real_labels = inputs.inception(scaling)
    labels = _labels(inputs)[torch.from_numpy(inputs.selected.copy())]
    if success_only:
        hits = torch.from_numpy(inputs.samples["hit1"].to_numpy(dtype=bool)[inputs.selected].copy())
        fake, labels = fake[hits], labels[hits]
    return _estimate(name, (fake, real, real_labels), labels, inputs.inception_name, scaling=scaling)


def _estimate(
    name: str, features: tuple[Tensor, Tensor, Tensor], labels: Tensor, extractor: str, **params: str
) -> Estimate:
    fake, real, real_labels = features
    record: dict[str, int | str] = {"n_real": int(real.shape[0]), "n_fake": int(fake.shape[0]), **params}
    if min(real.shape[0], fake.shape[0]) < 2:
        reason = f"a covariance needs at least two images on each side, got {real.shape[0]} real, {fake.shape[0]} fake"
        return estimates.null(name, reason, params=record, extractor=extractor)
    if min(real.shape[0], fake.shape[0]) <= real.shape[1]:
        record["warning"] = (
            f"no more images than the {real.shape[1]} feature dimensions: singular covariance, biased upwards; "
            "compare only at equal n_real and n_fake"
        )

    def without(left_out: set[int]) -> float:
        dropped = torch.tensor(sorted(left_out), dtype=torch.int64)
        kept_fake, kept_real = ~torch.isin(labels, dropped), ~torch.isin(real_labels, dropped)
        if min(int(kept_fake.sum()), int(kept_real.sum())) < 2:
            return float("nan")
        return frechet_distance(fake[kept_fake], real[kept_real])

    try:
        result = estimates.jackknife(
            name, without, [int(label) for label in labels.unique()], floor=0.0, params=record, extractor=extractor
        )
    except MibenchError as error:
        return estimates.null(name, str(error), params=record, extractor=extractor)
    if result.low is not None and not np.isfinite(result.low):
        record["interval"] = "none: too few images per identity"
        return Estimate(name=name, value=result.value, n=result.n, params=record, extractor=extractor)
    return result


def _labels(inputs: ScoringInputs) -> Tensor:
    return torch.from_numpy(inputs.samples["identity"].to_numpy(dtype=np.int64).copy())
