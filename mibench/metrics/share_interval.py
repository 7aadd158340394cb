"""The interval of a share in [0, 1] over identities: Clopper and Pearson's, with as many trials as the data are worth.

Images of one identity are neither one trial nor as many as there are. How many they are worth is read off how much
identities differ from each other (Korn and Graubard's effective sample size). Near 0 and 1, and with few identities,
that spread is itself hardly known; half an identity that always succeeds and half a one that never does are therefore
added to it, though not to the share.

``python benchmarks/coverage.py`` measures how often this interval, and others, hold the truth; ``docs/metrics.md`` has
its table.

Sources: Clopper and Pearson, Biometrika 26 (1934); Korn and Graubard, Survey Methodology 24 (1998), section 4 (without
their correction by Student's t: the added halves do its work); the half is ours, the smallest of 0.05, 0.1, 0.25, 0.5
and 1 whose coverage was nowhere below 94 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONFIDENCE_LEVEL = 0.95
ADDED = 0.5  # of an identity at 1 and of one at 0, ours: see above


def clopper_pearson(share: float, trials: float) -> tuple[float, float]:
    """The exact 95 % interval of a ``share`` of successes in ``trials``, which need not be whole numbers.

    Not empty at 0 and 1. Binomial counts lie in it with at least 95 %.
    """
    from scipy.special import betaincinv

    successes, failures = share * trials, (1 - share) * trials
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low = 0.0 if share <= 0 else float(betaincinv(successes, failures + 1, tail))
    high = 1.0 if share >= 1 else float(betaincinv(successes + 1, failures, 1 - tail))
    return low, high


def effective_trials(successes: Array, sizes: Array, trials: float | None = None) -> float:
    """How many independent trials the share ``successes.sum() / sizes.sum()`` is worth.

    ``p (1 - p) / v``, with ``v`` the variance of the share between identities (linearised, for identities of unequal
    size). Never fewer than the identities, nor more than the trials that there were.

    Args:
        successes: per identity ``(I,)``, between 0 and its size; may be fractional.
        sizes: weight of each identity ``(I,)``, usually its number of samples; positive in total.
        trials: samples in all; the sum of ``sizes`` by default.
    """
    n, total = len(sizes), float(sizes.sum())
    identities = total**2 / float((sizes**2).sum())  # all of them when they are of one size (Kish)
    most = max(identities, total if trials is None else trials)
    if n < 2 or float(successes.sum()) in (0.0, total):
        return identities  # nothing is known of the spread; it is never larger than with all-or-nothing identities
    usual = total / n
    total_weight, count = total + 2 * ADDED * usual, n + 2 * ADDED
    share = (float(successes.sum()) + ADDED * usual) / total_weight
    squares = float(((successes - share * sizes) ** 2).sum()) + ADDED * usual**2 * ((1 - share) ** 2 + share**2)
    variance = squares * count / (count - 1) / total_weight**2
    return float(np.clip(share * (1 - share) / variance, identities, most))


def share_interval(successes: Array, sizes: Array, trials: float | None = None) -> tuple[float, float, float]:
    """``low``, ``high`` and the effective trials of a share; arguments as for :func:`effective_trials`."""
    effective = effective_trials(successes, sizes, trials)
    low, high = clopper_pearson(float(successes.sum() / sizes.sum()), effective)
    return low, high, effective
