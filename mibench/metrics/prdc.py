"""Precision, recall, density and coverage, per identity.

Published definitions (Kynkäänniemi et al. 2019, Naeem et al. 2020) by default; the ``prdc`` package is the reference
in the tests. ``ppa-legacy`` is the form that Plug & Play Attacks and its descendants report.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mibench.api import Estimate, MetricInfo, metric

from . import estimates
from .inputs import ScoringInputs

Variant = Literal["published", "ppa-legacy"]
NEIGHBOURS = 3


class Prdc(NamedTuple):
    """Precision, recall and coverage in [0, 1]; density in [0, ∞), about 1 when both sets agree."""

    precision: float
    recall: float
    density: float
    coverage: float


def pairwise(first: Tensor, second: Tensor) -> Tensor:
    """Exact L2 distances ``(N, M)`` in float64 (from differences, not from a matrix product)."""
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")


def radii(features: Tensor, k: int) -> Tensor:
    """Distance ``(N,)`` from each row to its ``k``-th nearest other row."""
    distances = pairwise(features, features)
    distances.fill_diagonal_(0)
    return distances.kthvalue(k + 1, dim=1).values


def prdc(real: Tensor, fake: Tensor, k: int = NEIGHBOURS, variant: Variant = "published") -> Prdc:
    """The four numbers for one set of real ``(N, D)`` and one of fake features ``(M, D)``.

    Both sets need more than ``k`` rows. ``ppa-legacy`` differs in four ways: precision and recall look only at the
    ball of the *nearest* point, density divides by reals instead of fakes, balls are closed.
    """
    if min(real.shape[0], fake.shape[0]) <= k:
        raise ValueError(f"prdc with k={k} needs more than {k} rows, got {real.shape[0]} and {fake.shape[0]}")
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    distances = pairwise(real, fake)
    if variant == "ppa-legacy":
        nearest_real = distances.min(dim=0)
        nearest_fake = distances.min(dim=1)
        inside = distances <= real_radii[:, None]
        return Prdc(
            precision=_share(nearest_real.values <= real_radii[nearest_real.indices]),
            recall=_share(nearest_fake.values <= fake_radii[nearest_fake.indices]),
            density=float(inside.sum(dim=1).double().mean()) / k,
            coverage=_share(inside.any(dim=1)),
        )
    inside = distances < real_radii[:, None]
    return Prdc(
        precision=_share(inside.any(dim=0)),
        recall=_share((distances < fake_radii[None, :]).any(dim=1)),
        density=float(inside.sum(dim=0).double().mean()) / k,
        coverage=_share(inside.any(dim=1)),
    )


def _infos(suffix: str = "", remark: str = "", shown: tuple[str, ...] = ()) -> list[MetricInfo]:
    """Descriptions of the four numbers; those in ``shown`` stand in summaries and comparisons."""
    return [
        MetricInfo(
            name + suffix,
            name + remark,
            proportion=name != "density",
            higher_is_better=True,
            topic="fidelity",
            views=("summary", "comparison") if name in shown else (),
        )
        for name in Prdc._fields
    ]


@metric(*_infos(shown=("coverage",)))
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """precision, recall, density, coverage: published definitions, k = 3, unweighted mean over identities."""
    return _measure(inputs, "published", "")


@metric(*_infos("_ppa_legacy", " (PPA legacy)"))
def measure_ppa_legacy(inputs: ScoringInputs) -> list[Estimate]:
    """The same four as Plug & Play Attacks computes them, under names that say so."""
    return _measure(inputs, "ppa-legacy", "_ppa_legacy")


def _measure(inputs: ScoringInputs, variant: Variant, suffix: str) -> list[Estimate]:
    rows: list[Prdc] = []
    fakes = reals = skipped = 0
    for fake, real in inputs.per_identity().values():
        if min(real.shape[0], fake.shape[0]) <= NEIGHBOURS + 1:
            skipped += 1
        else:
            rows.append(prdc(real, fake, NEIGHBOURS, variant))
            fakes, reals = fakes + fake.shape[0], reals + real.shape[0]
    params = {"k": NEIGHBOURS, "definition": variant, "skipped_identities": skipped}
    measured = []
    for field in Prdc._fields:
        fields: estimates.EstimateFields = {"extractor": inputs.extractor, "params": params}
        if not rows:
            reason = (
                f"all {skipped} identities have at most {NEIGHBOURS + 1} selected reconstructions or private images; "
                f"k={NEIGHBOURS} needs more"
            )
            measured.append(estimates.null(field + suffix, reason, **fields))
            continue
        values = np.array([getattr(row, field) for row in rows])
        measured.append(
            estimates.ratio(
                field + suffix,
                values,
                np.ones_like(values),
                proportion=field != "density",
                trials=fakes if field == "precision" else reals,
                **inputs.intervals,
                **fields,
            )
        )
    return measured


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
