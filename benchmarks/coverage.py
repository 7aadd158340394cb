"""How often "95 %" intervals of a share hold the truth: the one in use, and what else could be used.

    python benchmarks/coverage.py                        # both tables of docs/metrics.md; about ten minutes on one core
    python benchmarks/coverage.py --draws 500 --out coverage.json

A simulated run is a number of people, each with a hit rate of its own and the same number of samples. Hit rates follow
a beta distribution with the given mean; `correlation` is the correlation of two samples of one person: 0 means that
all people have the same rate, 1 would mean that each is always or never recognised. The second grid has populations of
another make: two kinds of people (a few leak in 9 of 10 samples, the others in 1 of 100), rates that are normal on the
logit scale, unequal numbers of samples, and other counts of people and samples.

Width is the geometric mean, over populations, of the mean width divided by that of `exact, people as trials`.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit, ndtr, ndtri, stdtrit

from mibench.metrics.estimates import resample_counts
from mibench.metrics.share_interval import share_interval

Array = NDArray[np.float64]
Interval = tuple[Array, Array]

Z = 1.959963984540054
SHARES = (0.0, 0.004, 0.02, 0.05, 0.33, 0.67, 0.95, 1.0)
PEOPLE = (5, 10, 50, 300)
SAMPLES = (1, 8, 16)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
BOOTSTRAP, CHOSEN, BASE = "percentile bootstrap, Wilson at 0 and 1", "in use", "exact, people as trials"


class Population(NamedTuple):
    """What is drawn from: ``kind`` of hit rates with mean ``share``."""

    kind: str  # "beta", "two kinds", "logit-normal"
    share: float
    people: int
    samples: int  # of each person; with ``unequal`` on average
    correlation: float = 0.0
    unequal: bool = False


def populations() -> Iterator[Population]:
    """The first grid."""
    for share, people, samples, correlation in itertools.product(SHARES, PEOPLE, SAMPLES, CORRELATIONS):
        if correlation == 0 or samples > 1:  # a single sample has nothing to be correlated with
            yield Population("beta", share, people, samples, correlation)


def others() -> Iterator[Population]:
    """The second grid."""
    for share, people, samples in itertools.product((0.02, 0.05, 0.33, 0.67), (3, 20, 100), (4, 50)):
        yield Population("two kinds", share, people, samples)
        yield Population("logit-normal", share, people, samples)
        yield Population("beta", share, people, samples, 0.4, unequal=True)


def draw(population: Population, draws: int) -> tuple[Array, Array]:
    """Hits ``(draws, people)`` and samples ``(people,)``."""
    kind, share, people, samples, correlation, unequal = population
    generator = np.random.default_rng([*(ord(letter) for letter in kind), round(1e4 * share), people, samples])
    shape = (draws, people)
    if kind == "two kinds":
        rates = np.where(generator.random(shape) < (share - 0.01) / 0.89, 0.9, 0.01)
    elif kind == "logit-normal":
        rates = expit(_logit_centre(share) + 1.5 * generator.normal(size=shape))
    elif correlation == 0 or share in (0.0, 1.0):
        rates = np.full(shape, share)
    else:
        both = (1 - correlation) / correlation
        rates = np.nan_to_num(generator.beta(share * both, (1 - share) * both, shape), nan=share)
    counts = np.full(people, samples)
    if unequal:
        counts = generator.integers(1, 2 * samples, people)
    return generator.binomial(counts, rates).astype(np.float64), counts.astype(np.float64)


def _logit_centre(share: float) -> float:
    """The centre of a normal distribution (standard deviation 1.5) whose mean after ``expit`` is ``share``."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    low, high = -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        mean = float(expit(middle + 1.5 * points) @ weights / weights.sum())
        low, high = (middle, high) if mean < share else (low, middle)
    return low


def wilson(share: Array, trials: Array) -> Interval:
    square = Z**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z * np.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return np.where(share <= 0, 0.0, centre - half), np.where(share >= 1, 1.0, centre + half)


def agresti_coull(share: Array, trials: Array) -> Interval:
    more = trials + Z**2
    centre = (share * trials + Z**2 / 2) / more
    half = Z * np.sqrt(centre * (1 - centre) / more)
    return centre - half, centre + half


def exact(share: Array, trials: Array) -> Interval:
    hits, misses = share * trials, (1 - share) * trials
    low = np.where(hits <= 0, 0.0, betaincinv(np.maximum(hits, 1e-9), misses + 1, 0.025))
    high = np.where(misses <= 1e-9, 1.0, betaincinv(hits + 1, np.maximum(misses, 1e-9), 0.975))
    return low, high


def effective(hits: Array, counts: Array, added: float, student: bool) -> Array:
    """Korn and Graubard's effective trials ``(draws,)``, at least the people and at most the samples; ``added`` of a
    person at 1 and of one at 0 are added to the spread, ``student`` widens by Student's t as they do."""
    people, total = len(counts), float(counts.sum())
    usual = total / people
    whole, count = total + 2 * added * usual, people + 2 * added
    share = (hits.sum(axis=1) + added * usual) / whole
    squares = ((hits - share[:, None] * counts) ** 2).sum(axis=1) + added * usual**2 * ((1 - share) ** 2 + share**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        trials = share * (1 - share) / (squares * count / (count - 1) / whole**2)
    least = total**2 / float((counts**2).sum())
    plain = hits.sum(axis=1) / total
    trials = np.where((plain <= 0) | (plain >= 1), least, np.nan_to_num(trials, nan=math.inf))
    if student:
        trials = trials * (Z / stdtrit(people - 1, 0.975)) ** 2
    return np.clip(trials, least, max(least, total))


def resampled(hits: Array, counts: Array) -> dict[str, Interval]:
    """Candidates that resample people; at 0 and 1, where they are empty, Wilson's interval with people as trials."""
    people = len(counts)
    times = resample_counts(people)
    share = hits.sum(axis=1) / counts.sum()
    weights = times @ counts
    drawn = (times @ hits.T) / weights[:, None]  # (resamples, draws)
    ends = (share <= 0) | (share >= 1)
    low_end, high_end = wilson(share, np.full(len(share), float(people)))

    def patched(low: Array, high: Array) -> Interval:
        return np.where(ends, low_end, low), np.where(ends, high_end, high)

    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = {BOOTSTRAP: patched(low, high)}
    deviations = hits - share[:, None] * counts
    squares = np.maximum((deviations**2).sum(axis=1), 1e-300)
    with np.errstate(all="ignore"):
        skewness = np.nan_to_num((deviations**3).sum(axis=1) / (6 * squares**1.5))
    below = (drawn < share - 1e-12).mean(axis=0) + 0.5 * (np.abs(drawn - share) <= 1e-12).mean(axis=0)
    bias = ndtri(np.clip(below, 1e-3, 1 - 1e-3))
    ordered = np.sort(drawn, axis=0)

    def at(z: float) -> Array:
        place = ndtr(bias + (bias + z) / (1 - skewness * (bias + z)))
        rows = np.clip((place * len(ordered)).astype(int), 0, len(ordered) - 1)
        return ordered[rows, np.arange(len(share))]

    found["bootstrap BCa"] = patched(at(-Z), at(Z))
    # Studentised; half a person at 0 and half a one at 1 in the spread, so that no resample is without one
    spread = _smoothed_error(times @ (hits / counts).T, times @ ((hits / counts) ** 2).T, people)
    own = _smoothed_error((hits / counts).sum(axis=1), ((hits / counts) ** 2).sum(axis=1), people)
    left, right = np.quantile((drawn - share) / spread, [0.025, 0.975], axis=0)
    found["bootstrap-t, smoothed"] = patched(np.clip(share - right * own, 0, 1), np.clip(share - left * own, 0, 1))
    return found


def _smoothed_error(sums: Array, squares: Array, people: int) -> Array:
    """Standard error of a mean from sums of rates and of their squares, half a person added at either end."""
    size = people + 1.0
    error: Array = np.sqrt(((squares + 0.5) / size - ((sums + 0.5) / size) ** 2) / size)
    return error


def candidates(hits: Array, counts: Array) -> dict[str, Interval]:
    share, people = hits.sum(axis=1) / counts.sum(), np.full(len(hits), float(len(counts)))
    found = resampled(hits, counts)
    shapes: dict[str, Callable[[Array, Array], Interval]] = {
        "Wilson": wilson,
        "Agresti-Coull": agresti_coull,
        "exact": exact,
    }
    for name, interval in shapes.items():
        found[f"{name}, people as trials"] = interval(share, people)
        found[f"{name}, effective trials (Korn-Graubard)"] = interval(share, effective(hits, counts, 0, True))
    for added in (0.05, 0.1, 0.25, 0.5, 1.0):
        found[f"exact, effective trials, {added:g} added"] = exact(share, effective(hits, counts, added, False))
    rows = np.array([share_interval(row, counts)[:2] for row in hits])
    found[CHOSEN] = rows[:, 0], rows[:, 1]
    return found


def measure(grid: list[Population], draws: int, say: str) -> dict[str, list[tuple[float, float]]]:
    """Candidate -> (coverage, mean width) for each population."""
    found: dict[str, list[tuple[float, float]]] = {}
    with click.progressbar(grid, label=say, file=sys.stderr) as each:
        for population in each:
            hits, counts = draw(population, draws)
            for name, (low, high) in candidates(hits, counts).items():
                inside = (low <= population.share + 1e-12) & (high >= population.share - 1e-12)
                width = float((np.clip(high, 0, 1) - np.clip(low, 0, 1)).mean())
                found.setdefault(name, []).append((float(inside.mean()), width))
    return found


def overview(here: dict[str, list[tuple[float, float]]], there: dict[str, list[tuple[float, float]]]) -> list[str]:
    """A row for each candidate: least coverage, populations below 93 %, width; then the other grid."""
    lines = ["| interval | least coverage | below 93 % | width | least, other populations | below 93 % |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, cells in here.items():
        widths = [max(width, 1e-9) / base for (_, width), (_, base) in zip(cells, here[BASE], strict=True)]
        width = math.exp(sum(math.log(each) for each in widths) / len(widths))
        texts = [name]
        for part in (cells, there[name]):
            coverage = [inside for inside, _ in part]
            texts += [f"{min(coverage):.1%}".replace("%", " %"), f"{sum(c < 0.93 for c in coverage)} of {len(part)}"]
        texts.insert(3, f"{width:.2f}")
        lines.append(f"| {' | '.join(texts)} |")
    return lines


def by_size(grid: list[Population], found: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Least coverage over the correlations, before → now, by people, samples and share."""
    lines = ["| people | samples | " + " | ".join(f"{share:g}" for share in SHARES) + " |"]
    lines.append("| --- |" + " --- |" * (len(SHARES) + 1))
    for people, samples in itertools.product(PEOPLE, SAMPLES):
        texts = []
        for share in SHARES:
            places = [i for i, p in enumerate(grid) if (p.share, p.people, p.samples) == (share, people, samples)]
            before, now = (min(found[name][place][0] for place in places) for name in (BOOTSTRAP, CHOSEN))
            texts.append(f"{100 * before:.0f} → {100 * now:.0f}")
        lines.append(f"| {people} | {samples} | {' | '.join(texts)} |")
    return lines


@click.command(help=__doc__)
@click.option("--draws", default=3000, show_default=True, help="Simulated runs of each population.")
@click.option("--out", type=click.Path(path_type=Path), help="Write every figure as JSON.")
def main(draws: int, out: Path | None) -> None:
    grid, more = list(populations()), list(others())
    here, there = measure(grid, draws, "grid"), measure(more, draws, "other populations")
    click.echo("\n".join([*overview(here, there), "", *by_size(grid, here)]))
    if out is not None:
        rows: list[dict[str, Any]] = [
            {"interval": name, **population._asdict(), "coverage": inside, "width": width}
            for population_list, found in ((grid, here), (more, there))
            for name, cells in found.items()
            for population, (inside, width) in zip(population_list, cells, strict=True)
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"draws": draws, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
