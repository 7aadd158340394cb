"""One-sided tests of paired differences against a margin: has something risen by less than what is allowed, or at all?

``I`` is the number of identities. The test is Fisher's randomisation test (:mod:`mibench.metrics.differences`) of
``differences - margin``, one-sided. Its p value and its confidence bound come from the same subset means (Hartigan's
typical values), so they never contradict each other: a bound at level 1 - alpha lies below the margin just where
p <= alpha.

Where all differences are alike, such as two attacks that succeed on nobody, randomisation sees no spread and would be
certain; shares then have the interval of paired shares.

Sources: Hartigan, Journal of the American Statistical Association 64 (1969), 1303-1317; Wellek, Testing Statistical
Hypotheses of Equivalence and Noninferiority (2010), chapter 1, for the hypotheses; Bloom, Evaluation Review 19(5),
1995, equation 1, for what could have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .differences import SIGN_FLIPS, combined_interval, difference_interval, sign_patterns

Array = NDArray[np.float64]

POWER = 0.8
MOST_IDENTITIES = 10_000  # that anybody is told to attack
_CHUNK = 8_000_000  # most signs multiplied at once
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Increase:
    """How much ``new`` lies above ``old``, paired over identities.

    Attributes:
        new, old: values of the same identities ``(I,)`` in the same order, finite; larger means more.
        trials: samples in all behind either, where they are shares in [0, 1]; else None.
        seed: of the random sign patterns.
    """

    new: Sequence[float]
    old: Sequence[float]
    trials: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.new) != len(self.old) or len(self.new) < 2:
            raise ValueError("an increase is measured over the same identities, at least two")
        if not np.isfinite(self.differences).all():
            raise ValueError("an increase is measured over finite values")

    @cached_property
    def differences(self) -> Array:
        """``new - old``, float64 ``(I,)``."""
        return np.asarray(self.new, dtype=np.float64) - np.asarray(self.old, dtype=np.float64)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.differences.mean())

    def p_below(self, margin: float) -> float:
        """One-sided p value of "the true increase is at least ``margin``"; small: it is less."""
        if self._alike is not None:
            return 0.0 if self._alike[1] < margin else 1.0
        means = self._subset_means
        return float((means >= margin - _ROUNDING * self._scale).sum()) / len(means)

    def p_above(self, margin: float = 0.0) -> float:
        """One-sided p value of "the true increase is at most ``margin``"; small: it is more."""
        if self._alike is not None:
            return 0.0 if self._alike[0] > margin else 1.0
        means = -self._lower_means
        return float((means <= margin + _ROUNDING * self._scale).sum()) / len(means)

    def upper(self, confidence: float) -> float:
        """The least margin of which :meth:`p_below` is at most ``1 - confidence``; infinity with too few identities."""
        return self._alike[1] if self._alike is not None else _bound(self._subset_means, confidence)

    def lower(self, confidence: float) -> float:
        """The greatest margin of which :meth:`p_above` is at most ``1 - confidence``."""
        return self._alike[0] if self._alike is not None else -_bound(self._lower_means, confidence)

    def detectable(self, confidence: float) -> float | None:
        """The smallest true increase that one such test sees with probability ``POWER``; None where nothing varies, or
        identities are so few that no p value is small enough."""
        from scipy.special import stdtrit

        n, spread = len(self.differences), float(self.differences.std(ddof=1))
        if spread <= _ROUNDING * self._scale or n < _fewest(confidence):
            return None
        return float(stdtrit(n - 1, confidence) + stdtrit(n - 1, POWER)) * spread / math.sqrt(n)

    def identities_needed(self, margin: float, confidence: float) -> int | None:
        """How many identities show with probability ``POWER`` that the increase is below ``margin``, if it is what was
        observed (or nothing, where less was observed), and identities vary as they did; None: no number would do."""
        from scipy.special import stdtrit

        distance = margin - max(self.mean, 0.0)
        if distance <= 0:
            return None
        if self._alike is not None:
            return self._needed_alike(margin)
        spread = float(self.differences.std(ddof=1))
        needed = 2
        for _ in range(20):  # the quantiles depend on the number: repeat until it stands
            multiplier = float(stdtrit(max(needed - 1, 1), confidence) + stdtrit(max(needed - 1, 1), POWER))
            again = max(2, math.ceil((multiplier * spread / distance) ** 2))
            if again == needed:
                break
            needed = again
        return max(needed, _fewest(confidence))

    @cached_property
    def _alike(self) -> tuple[float, float] | None:
        """The interval of shares where all differences are the same, else None."""
        if self.trials is None or float(np.ptp(self.differences)) > _ROUNDING * self._scale:
            return None
        return difference_interval(self.new, self.old, trials=self.trials, seed=self.seed)

    def _needed_alike(self, margin: float) -> int | None:
        """How many identities, all as alike as these, have an interval below the margin, to within a tenth."""
        assert self.trials is not None
        count = float(len(self.new))
        while count < MOST_IDENTITIES:
            people = math.ceil(count)
            new, old = np.resize(self.new, people), np.resize(self.old, people)
            factor = people / len(self.new)
            trials = (self.trials[0] * factor, self.trials[1] * factor)
            if combined_interval(new, old, trials)[1] < margin:  # what a test of differences that are alike adds is 0
                return people
            count *= 1.1
        return None

    @cached_property
    def _scale(self) -> float:
        return max(float(np.abs(self.differences).max()), 1e-300)

    @cached_property
    def _subset_means(self) -> Array:
        return _subset_means(self.differences, self.seed)

    @cached_property
    def _lower_means(self) -> Array:
        return _subset_means(-self.differences, self.seed)


def _fewest(confidence: float) -> int:
    """Identities; with fewer no p value is small enough."""
    return math.ceil(-math.log2(1 - confidence))


def _bound(means: Array, confidence: float) -> float:
    """The value that no more than ``1 - confidence`` of ``means`` reach from above."""
    allowed = math.floor((1 - confidence) * len(means) + _ROUNDING)  # how many may lie at or above the margin
    if allowed < 1:
        return math.inf
    return float(np.partition(means, len(means) - allowed - 1)[len(means) - allowed - 1])


def _subset_means(values: Array, seed: int, draws: int = SIGN_FLIPS) -> Array:
    """Means of subsets of ``values`` ``(I,)``: all ``2^I`` where they are few, else random ones and their complements.

    Flipping the signs of the subset A of ``margin - values`` leaves their sum no smaller just where the mean of A is at
    least the margin. The empty subset, which flips nothing, always counts: its mean is infinite here.
    """
    signs, exact = sign_patterns(len(values), draws, seed)
    step = max(1, _CHUNK // len(values))
    parts = [] if exact else [np.array([math.inf])]
    for start in range(0, len(signs), step):
        flipped = (signs[start : start + step] < 0).astype(np.float64)
        counts, sums = flipped.sum(axis=1), flipped @ values
        for total, count in ((sums, counts), (float(values.sum()) - sums, len(values) - counts)):
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append(np.where(count == 0, math.inf, total / count))
    return np.concatenate(parts)
