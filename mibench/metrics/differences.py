"""Paired differences over the same identities: their sign-flip test, and an interval that agrees with it.

``I`` is the number of identities. The interval of a mean of any values is Student's t over the differences of
identities. For shares that is wrong: differences of shares are often all alike (nobody was recognised by either attack)
or lopsided. There, the intervals of both shares (:mod:`mibench.metrics.share_interval`) are combined, as Zou and Donner
do, with the correlation of identities between the two attacks.

The p value is of another kind, so the two could contradict each other about 0. Where they would, the test is right (it
keeps its level whatever the distribution), and the end that faces 0 is taken from the test.

``python benchmarks/coverage_differences.py`` measures how often this interval, and others, hold the truth;
``docs/metrics.md`` has its table.

Sources: Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10; Zou and Donner, Statistics in Medicine 27
(2008), equation 4; Hartigan, Journal of the American Statistical Association 64 (1969), for the inverted test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from mibench.rng import stream

from .share_interval import ADDED, share_interval

Array = NDArray[np.float64]

ALPHA = 0.05
SIGN_FLIPS = 20_000  # many, since Holm's adjustment reads the far tail of p values
_CHUNK = 8_000_000  # most signs multiplied at once


def sign_flip_p_value(differences: Sequence[float] | Array, *, seed: int = 0, draws: int = SIGN_FLIPS) -> float:
    """Two-sided p value of the mean of paired ``differences`` ``(I,)``: Fisher's randomisation test.

    If neither side is better, each identity's difference might as well have had the other sign. The p value is the
    share of sign patterns whose mean is at least as far from zero as the observed one: of all ``2^I`` patterns where
    they are no more than ``2 * draws``, else of ``draws`` random ones (then never below ``1 / (draws + 1)``).

    Exact for differences that are symmetric about zero under the null hypothesis. Unlike the bootstrap's p value it
    keeps its level with few identities, in the far tail as well, which is where Holm's adjustment looks.

    Source: Fisher, The Design of Experiments (1935), section 21; Good, Permutation, Parametric and Bootstrap Tests of
    Hypotheses (2005), section 3.2.

    Raises:
        ValueError: there is no difference, or one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        raise ValueError("a sign-flip test needs finite differences, at least one")
    least = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())  # equal sums differ by rounding
    signs, exact = sign_patterns(n, draws, seed)
    step = max(1, _CHUNK // n)
    extreme = sum(int((np.abs(signs[i : i + step] @ values) >= least).sum()) for i in range(0, len(signs), step))
    return extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)


@lru_cache(maxsize=8)
def sign_patterns(n: int, draws: int, seed: int) -> tuple[NDArray[np.int8], bool]:
    """Signs int8 ``(patterns, n)``, and whether they are all of them (the first sign fixed: means come in pairs)."""
    if 2 ** (n - 1) <= draws:
        numbers = np.arange(2 ** (n - 1))[:, None] >> np.arange(n)[None, :]
        signs = 1 - 2 * (numbers & 1)
        exact = True
    else:
        generator = stream(seed, "sign flips", n)
        signs = np.empty((draws, n), dtype=np.int8)
        step = max(1, _CHUNK // n)  # a part at a time, the same numbers: int64 are eight times the size
        for start in range(0, draws, step):
            part = signs[start : start + step]
            part[:] = 1 - 2 * torch.randint(2, part.shape, generator=generator).numpy()
        exact = False
    result: NDArray[np.int8] = signs.astype(np.int8, copy=False)
    result.flags.writeable = False
    return result, exact


def student_interval(differences: Array) -> tuple[float, float]:
    """Student's t interval of the mean of ``differences`` ``(I,)``, at least two."""
    from scipy.special import stdtrit

    n, mean = len(differences), float(differences.mean())
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def combined_interval(first: Array, second: Array, trials: tuple[float, float]) -> tuple[float, float]:
    """The interval of the mean of ``first - second``, shares of the same identities ``(I,)``, from their own intervals.

    The distance from the difference to its end is put together from the distances of either share to its own end, as
    the sides of a triangle with the correlation as the cosine between them. Identities that are alike by chance would
    make it too short with few of them, so half an identity that only the first attack succeeds on and half a one that
    only the second does go into the correlation, and a negative one counts as none.

    Args:
        first, second: share of each identity, in [0, 1].
        trials: samples in all, of either.
    """
    sizes = np.ones(len(first))
    (p, p_low, p_high), (q, q_low, q_high) = (
        (float(shares.mean()), *share_interval(shares, sizes, count)[:2])
        for shares, count in zip((first, second), trials, strict=True)
    )
    cosine = max(0.0, _correlation(first, second))

    def combined_half_width(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * cosine * one * other + other**2))

    return p - q - combined_half_width(p - p_low, q_high - q), p - q + combined_half_width(p_high - p, q - q_low)


def _correlation(first: Array, second: Array) -> float:
    """Of two shares ``(I,)`` over identities, with ``ADDED`` of an identity at (1, 0) and of one at (0, 1)."""
    values = np.array([[*first, 1.0, 0.0], [*second, 0.0, 1.0]])
    weights = np.array([1.0] * len(first) + [ADDED] * 2)
    centred = values - (values @ weights / weights.sum())[:, None]
    covariance = (centred * weights) @ centred.T
    return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))


def difference_interval(
    first: Sequence[float] | Array,
    second: Sequence[float] | Array,
    *,
    trials: tuple[float, float] | None = None,
    seed: int = 0,
    draws: int = SIGN_FLIPS,
) -> tuple[float, float]:
    """The 95 % interval of the mean of ``first - second`` ``(I,)``; 0 lies outside where the test says p <= 0.05.

    Args:
        first, second: values of the same identities, at least two, finite.
        trials: samples in all that each was counted over, where they are shares or other values in [0, 1].
        seed, draws: of the sign-flip test.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    values = one - other
    low, high = student_interval(values) if trials is None else combined_interval(one, other, trials)
    if sign_flip_p_value(values, seed=seed, draws=draws) > ALPHA:
        return min(low, 0.0), max(high, 0.0)
    if not low <= 0 <= high:
        return low, high
    if values.mean() > 0:
        return not_rejected_from(values, seed=seed, draws=draws), high
    return low, -not_rejected_from(-values, seed=seed, draws=draws)


def not_rejected_from(values: Array, *, seed: int = 0, draws: int = SIGN_FLIPS) -> float:
    """The least mean that the two-sided sign-flip test does not reject at 5 %; minus infinity where it rejects none.

    Flipping the signs of the subset A of ``values - m`` makes their sum no nearer to zero just where the mean of A, or
    the mean of the others, is at most m (for m below the mean of all). So m is rejected until 5 % of the patterns have
    such a mean (Hartigan's typical values).
    """
    signs, exact = sign_patterns(len(values), draws, seed)
    step = max(1, _CHUNK // len(values))
    least = [] if exact else [np.array([-math.inf])]  # the observed pattern counts, as in the p value
    for start in range(0, len(signs), step):
        flipped = (signs[start : start + step] < 0).astype(np.float64)
        counts, sums = flipped.sum(axis=1), flipped @ values
        with np.errstate(divide="ignore", invalid="ignore"):
            both = sums / counts, (float(values.sum()) - sums) / (len(values) - counts)
        smaller = np.minimum(*both)
        least.append(np.where((counts == 0) | (counts == len(values)), -math.inf, smaller))
    every = np.concatenate(least)
    index = math.floor(ALPHA * len(every) + 1e-9)
    return float(np.partition(every, index)[index])
