"""Paired differences: the interval holds the truth where shares are few and small, and agrees with the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_engine import toy_run

from mibench.metrics import estimates
from mibench.metrics.differences import combined_interval, difference_interval, not_rejected_from, sign_flip_p_value
from mibench.metrics.share_interval import share_interval
from mibench.reports.compare import compare
from mibench.results import difference, open_run, per_identity

Pair = tuple[np.ndarray, np.ndarray]
KINDS: dict[str, Callable[[np.random.Generator, int], Pair]] = {
    "normal": lambda generator, n: (generator.normal(0.4, 1, n), np.zeros(n)),
    "skewed": lambda generator, n: (generator.exponential(1, n), np.full(n, 0.4)),
    "few hits": lambda generator, n: (generator.binomial(1, 0.2, n) / 1, generator.binomial(1, 0.05, n) / 1),
    "eighths": lambda generator, n: (generator.binomial(8, 0.7, n) / 8, generator.binomial(8, 0.5, n) / 8),
    "all alike": lambda generator, n: (np.full(n, generator.integers(0, 5) / 4), np.full(n, 0.5)),
}


@pytest.mark.parametrize("n", [2, 5, 6, 10, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_lies_outside_just_where_the_test_says_so(kind: str, n: int) -> None:
    generator = np.random.default_rng(n)
    trials = None if kind in ("normal", "skewed") else (8.0 * n, 8.0 * n)
    for _ in range(30):
        first, second = KINDS[kind](generator, n)
        low, high = difference_interval(first, second, trials=trials, draws=1000)
        rejected = sign_flip_p_value(first - second, draws=1000) <= 0.05
        assert (not low <= 0 <= high) == rejected
        assert low - 1e-12 <= (first - second).mean() <= high + 1e-12
        assert difference_interval(second, first, trials=trials, draws=1000) == pytest.approx((-high, -low))
        assert trials is None or -1 <= low <= high <= 1


@pytest.mark.parametrize("n", [6, 8, 12, 30])
def test_the_test_s_own_end_is_where_it_begins_to_reject(n: int) -> None:
    values = np.random.default_rng(n).normal(1, 1, n)
    low = not_rejected_from(values, draws=2000)
    step = 1e-6
    assert sign_flip_p_value(values - (low + step), draws=2000) > 0.05
    assert sign_flip_p_value(values - (low - step), draws=2000) <= 0.05
    assert not_rejected_from(values[:5]) == -np.inf  # five people cannot reach 0.05


def test_of_values_without_bounds_it_is_student_s() -> None:
    values = np.random.default_rng(1).normal(3, 1, 12)
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert difference_interval(values, np.zeros(12)) == pytest.approx(expected)


def test_of_shares_that_have_nothing_in_common_it_is_newcombe_s() -> None:
    """Without correlation: the squares of the distances add up (Newcombe's method 10)."""
    first, second = np.repeat([1.0, 0.0], 10), np.tile([1.0, 0.0], 10)
    low, high = combined_interval(first, second, (20, 20))
    least, most, _ = share_interval(first, np.ones(20), 20)
    distance = np.hypot(0.5 - least, most - 0.5)
    assert (low, high) == pytest.approx((-distance, distance))
    alike = combined_interval(first, first, (20, 20))
    assert 0 < alike[1] < high


def test_differences_that_are_all_alike_do_not_make_an_empty_interval() -> None:
    nobody, everybody = np.zeros(10), np.ones(10)
    low, high = difference_interval(nobody, nobody, trials=(80, 80))
    assert low < -0.1 < 0.1 < high
    low, high = difference_interval(everybody, nobody, trials=(10, 10))
    assert (0.4 < low < 0.8, high) == (True, 1)


@pytest.mark.parametrize(
    ("shares", "people", "samples"),
    [((0.05, 0.0), 5, 1), ((0.2, 0.0), 10, 1), ((0.38, 0.33), 10, 8), ((0.05, 0.0), 50, 1), ((1.0, 0.95), 5, 8)],
)
def test_the_interval_covers_the_truth_where_the_bootstrap_did_not(
    shares: tuple[float, float], people: int, samples: int
) -> None:
    generator, draws = np.random.default_rng(7), 400
    first, second = (generator.binomial(samples, share, (draws, people)) / samples for share in shares)
    truth, each, trials = shares[0] - shares[1], first - second, (float(people * samples),) * 2
    found = [difference_interval(*pair, trials=trials, draws=1000) for pair in zip(first, second, strict=True)]
    assert np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in found]) >= 0.93
    drawn = estimates.resample_counts(people) @ each.T / people
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9)) < 0.93


def test_an_estimate_carries_the_interval_and_its_name() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.binomial(8, 0.6, 10) / 8, generator.binomial(8, 0.5, 10) / 8
    found = estimates.compared("x", first, second, trials=(80, 80))
    assert (found.low, found.high) == difference_interval(first, second, trials=(80, 80))
    assert found.params["interval"] == "paired shares"
    assert estimates.compared("x", first, second).params["interval"] == "paired t"


@pytest.mark.parametrize(("name", "bounded"), [("acc1", True), ("hit5", True), ("knn_distance", False)])
def test_runs_are_compared_as_shares_where_they_are_shares(toy: Path, tmp_path: Path, name: str, bounded: bool) -> None:
    run = toy_run(tmp_path)
    assert run.floor is not None
    one, other = open_run(run.path), open_run(run.floor.path)
    found = difference(one, other, name)
    trials = (12.0, 12.0) if bounded else None  # six identities, two samples
    assert (found.low, found.high) == difference_interval(
        per_identity(one, name).to_numpy(), per_identity(other, name).to_numpy(), trials=trials
    )
    comparison = compare([one, other])
    if name in comparison.tested:
        row = next(each for each in comparison.differences if each.metric == name)
        assert (row.estimate.low, row.estimate.high) == (found.low, found.high)
