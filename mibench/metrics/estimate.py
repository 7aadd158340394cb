"""Intervals that resample identities: images of one identity are not independent, so identities are the unit.

Every function is deterministic (the draws come from :mod:`mibench.rng`) and does not depend on the order of rows.
``N`` is the number of samples, ``I`` the number of identities, ``B`` the number of bootstrap resamples.

With few identities the percentile bootstrap is too narrow: measured over 1,000 draws of normal identity means, its
"95 %" intervals held the truth in 83 % (5 identities), 92 % (10), 92 % (20), 93 % (50) and 95 % (100) of cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mibench.api import Estimate
from mibench.rng import stream

Array = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
_NORMAL_QUANTILE = 1.959963984540054  # two-sided 95 %
_CHUNK = 8_000_000  # most weights held at once by the weighted median


def null(name: str, reason: str, **fields: Any) -> Estimate:
    """An estimate that could not be had, with the reason in one sentence."""
    return Estimate(name=name, value=None, reason=reason, **fields)


@lru_cache(maxsize=8)
def resample_counts(identities: int, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """How often each identity is drawn in each resample, float64 ``(B, I)``; every row sums to ``I``.

    The draws depend on the arguments only, so that all metrics of a run, and two runs over the same identities,
    resample the same way: differences between them are paired.
    """
    generator = stream(seed, "bootstrap", identities)
    draws = torch.randint(identities, (resamples, identities), generator=generator).numpy()
    offsets = np.arange(resamples)[:, None] * identities
    counts = np.bincount((draws + offsets).ravel(), minlength=resamples * identities)
    result = counts.reshape(resamples, identities).astype(np.float64)
    result.flags.writeable = False
    return result


def percentile_interval(statistics: Array) -> tuple[float, float]:
    """The central 95 % of the resampled statistics ``(B,)``."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion ``successes / n``; not empty at 0 % and 100 %."""
    if n < 1:
        raise ValueError("a proportion needs at least one trial")
    z2 = _NORMAL_QUANTILE**2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _NORMAL_QUANTILE * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes <= 0 else centre - half  # exact there, and free of rounding
    high = 1.0 if successes >= n else centre + half
    return low, high


def ratio(
    name: str,
    numerators: Sequence[float] | Array,
    denominators: Sequence[float] | Array,
    *,
    proportion: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    **fields: Any,
) -> Estimate:
    """``sum(numerators) / sum(denominators)`` with a percentile bootstrap over identities.

    Args:
        name: of the estimate.
        numerators: one number per identity ``(I,)``, identities in a fixed order.
        denominators: one number per identity ``(I,)``, positive in total.
        proportion: the ratio is a share of successes in [0, 1]. At 0 and at 1 every resample is the same, so the
            interval is Wilson's with the identities as trials.
        seed: of the resampling.
        resamples: how many.
        fields: further fields of the :class:`~mibench.api.Estimate`.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    n = len(top)
    if n == 0:
        return null(name, "there is no identity to average over", **fields)
    bad = int((~np.isfinite(top) | ~np.isfinite(bottom)).sum())
    if bad:
        return null(name, f"{bad} of {n} identities have a value that is not finite", **fields)
    if bottom.sum() <= 0:
        return null(name, "the denominator is zero", **fields)
    value = float(top.sum() / bottom.sum())
    params = dict(fields.pop("params", {}))
    low: float | None
    high: float | None
    if proportion and value in (0.0, 1.0):
        low, high = wilson_interval(value * n, n)
        params["interval"] = "wilson"
    elif n == 1:
        low = high = None
        params["interval"] = "none: one identity"
    else:
        counts = resample_counts(n, resamples, seed)
        totals = counts @ bottom
        usable = totals > 0
        low, high = percentile_interval((counts @ top)[usable] / totals[usable])
        params["interval"] = "cluster bootstrap"
    return Estimate(name=name, value=value, low=low, high=high, n=n, params=params, **fields)


def mean(
    name: str, values: Sequence[float] | Array, identities: Sequence[int] | NDArray[Any], **options: Any
) -> Estimate:
    """Mean of per-sample ``values`` ``(N,)`` with an interval that resamples their ``identities`` ``(N,)``.

    ``options`` are those of :func:`ratio`. ``n`` counts identities, ``params["samples"]`` the samples.
    """
    sums, sizes = _by_identity(values, identities)
    params = {**options.pop("params", {}), "samples": int(sizes.sum())}
    return ratio(name, sums, sizes, params=params, **options)


def median(
    name: str,
    values: Sequence[float] | Array,
    identities: Sequence[int] | NDArray[Any],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    **fields: Any,
) -> Estimate:
    """Median of per-sample ``values`` ``(N,)`` with a percentile bootstrap over their ``identities`` ``(N,)``."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return null(name, "there is no sample", **fields)
    if not np.isfinite(numbers).all():
        return null(name, f"{int((~np.isfinite(numbers)).sum())} of {len(numbers)} values are not finite", **fields)
    _, codes = np.unique(np.asarray(identities), return_inverse=True)
    n = int(codes.max()) + 1
    order = np.argsort(numbers, kind="stable")
    ordered, codes = numbers[order], codes[order]
    params = {**fields.pop("params", {}), "samples": len(numbers)}
    low: float | None = None
    high: float | None = None
    if n > 1:
        counts = resample_counts(n, resamples, seed)
        step = max(1, _CHUNK // len(ordered))
        parts = [_weighted_median(ordered, counts[i : i + step][:, codes]) for i in range(0, resamples, step)]
        low, high = percentile_interval(np.concatenate(parts))
        params["interval"] = "cluster bootstrap"
    else:
        params["interval"] = "none: one identity"
    return Estimate(name=name, value=float(np.median(numbers)), low=low, high=high, n=n, params=params, **fields)


def jackknife(
    name: str,
    statistic: Callable[[set[int]], float],
    identities: Sequence[int],
    *,
    floor: float | None = None,
    groups: int = 20,
    **fields: Any,
) -> Estimate:
    """A statistic that is costly or biased under resampling, with a normal interval from a grouped jackknife.

    Duplicates lower the rank of a covariance, so the bootstrap of a Fréchet distance does not even contain its value;
    leaving identities out does.

    Args:
        name: of the estimate.
        statistic: maps a set of identities to *leave out* to the statistic of the others.
        identities: all of them.
        floor: the least value that makes sense; the interval is cut there.
        groups: at most this many leave-outs.
        fields: further fields of the :class:`~mibench.api.Estimate`.
    """
    known = sorted(set(identities))
    value = statistic(set())
    params = dict(fields.pop("params", {}))
    n = len(known)
    if n < 3:
        params["interval"] = f"none: {n} identities"
        return Estimate(name=name, value=value, n=n, params=params, **fields)
    parts = [set(part.tolist()) for part in np.array_split(np.asarray(known), min(groups, n))]
    left_out = np.array([statistic(part) for part in parts])
    count = len(parts)
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    low, high = value - _NORMAL_QUANTILE * error, value + _NORMAL_QUANTILE * error
    if floor is not None:
        low = max(low, floor)
    params["interval"] = f"jackknife of {count} groups"
    return Estimate(name=name, value=value, low=low, high=high, n=n, params=params, **fields)


def paired_difference(
    name: str,
    first: Sequence[float] | Array,
    second: Sequence[float] | Array,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    **fields: Any,
) -> Estimate:
    """Mean of ``first - second`` over the same identities, each ``(I,)``, with a paired bootstrap.

    ``params["p_value"]`` is two-sided: how often the resampled difference, moved to zero, is at least as far from
    zero as the observed one (never below ``1 / (B + 1)``).
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    estimate = ratio(name, difference, np.ones_like(difference), seed=seed, resamples=resamples, **fields)
    if estimate.value is None or len(difference) < 2:
        return estimate
    resampled = resample_counts(len(difference), resamples, seed) @ difference / len(difference)
    extreme = int((np.abs(resampled - estimate.value) >= abs(estimate.value) - 1e-12).sum())
    params = {**estimate.params, "p_value": (extreme + 1) / (resamples + 1)}
    return Estimate(**{**_fields(estimate), "params": params})


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p values that hold for the whole family, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _by_identity(values: Sequence[float] | Array, identities: Sequence[int] | NDArray[Any]) -> tuple[Array, Array]:
    """Sum and count per identity, identities ascending. Values are sorted first: the sum is then free of order."""
    numbers = np.asarray(values, dtype=np.float64)
    _, codes = np.unique(np.asarray(identities), return_inverse=True)
    order = np.lexsort((numbers, codes))
    groups = int(codes.max()) + 1 if len(codes) else 0
    sums = np.bincount(codes[order], weights=numbers[order], minlength=groups)
    return sums.astype(np.float64), np.bincount(codes, minlength=groups).astype(np.float64)


def _weighted_median(ordered: Array, weights: Array) -> Array:
    """Medians ``(B,)`` of ascending values ``(N,)`` repeated ``weights`` ``(B, N)`` times."""
    cumulated = weights.cumsum(axis=1)
    half = cumulated[:, -1:] / 2
    lower = (cumulated < half).sum(axis=1)
    upper = (cumulated <= half).sum(axis=1)
    result: Array = (ordered[lower] + ordered[np.minimum(upper, len(ordered) - 1)]) / 2
    return result


def _fields(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in estimate.__dataclass_fields__}
