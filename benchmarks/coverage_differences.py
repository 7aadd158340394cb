"""How often "95 %" intervals of a paired difference of shares hold the truth: the one in use, and others.

    python benchmarks/coverage_differences.py                        # both tables of docs/metrics.md; some ten minutes
    python benchmarks/coverage_differences.py --draws 200 --out differences.json

A simulated comparison is a number of people whom two attacks reconstruct, with the same number of samples each. Hit
rates of people follow beta distributions with the two shares as means; `correlation` is the correlation of two samples
of a person by one attack. The attacks find the same people easy (`alike`: rates are equal quantiles) or have nothing in
common. `benchmarks/coverage.py` does the same for a single share.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from mibench.metrics import differences
from mibench.metrics.differences import combined_interval, difference_interval, sign_patterns
from mibench.metrics.estimates import resample_counts

Array = NDArray[np.float64]
Interval = tuple[Array, Array]

SHARES = (0.0, 0.02, 0.05, 0.33, 0.67, 0.95)
DIFFERENCES = (0.0, 0.05, 0.2)
PEOPLE = (5, 10, 50)
SAMPLES = (1, 8)
KINDS = ((0.0, False), (0.3, False), (0.3, True), (0.7, False), (0.7, True))  # correlation, alike
BOOTSTRAP, PLAIN, CHOSEN = "percentile bootstrap", "t", "in use"
PATTERNS = 2000  # of signs, with 50 people; with fewer all of them


class Population(NamedTuple):
    """Two attacks on the same people; ``share`` of the weaker one."""

    share: float
    difference: float
    people: int
    samples: int
    correlation: float
    alike: bool


def populations() -> Iterator[Population]:
    """Shares above 1 are left out: 0.95 has the differences of 0.75 and 0.9 to it instead."""
    for share, difference, people, samples, kind in itertools.product(SHARES, DIFFERENCES, PEOPLE, SAMPLES, KINDS):
        lower = share if share + difference <= 1 else round(share - difference, 4)
        yield Population(lower, difference, people, samples, *kind)


def draw(population: Population, draws: int) -> tuple[Array, Array]:
    """Hit rates of the stronger and the weaker attack, each ``(draws, people)``, of 0 to 1."""
    share, difference, people, samples, correlation, alike = population
    facts = (1e4 * share, 1e4 * difference, people, samples, 10 * correlation)
    generator = np.random.default_rng([round(fact) for fact in facts])
    shape = (draws, people)
    first = generator.random(shape)
    quantiles = first, first if alike else generator.random(shape)
    found = []
    for mean, quantile in zip((share + difference, share), quantiles, strict=True):
        rates = np.full(shape, mean)
        if correlation and 0 < mean < 1:
            both = (1 - correlation) / correlation
            rates = betaincinv(mean * both, (1 - mean) * both, quantile)
        found.append(generator.binomial(samples, np.clip(rates, 0, 1)) / samples)
    return found[0], found[1]


def bootstrap(each: Array) -> Interval:
    drawn = resample_counts(each.shape[1]) @ each.T / each.shape[1]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def student(each: Array, added: float = 0.0) -> Interval:
    """t interval; ``added`` of a person at 1 and at -1 are added to the spread."""
    people, mean = each.shape[1], each.mean(axis=1)
    count = people + 2 * added
    centre = each.sum(axis=1) / count
    squares = ((each - centre[:, None]) ** 2).sum(axis=1) + added * ((1 - centre) ** 2 + (1 + centre) ** 2)
    half = stdtrit(people - 1, 0.975) * np.sqrt(squares / (count - 1) / count)
    return mean - half, mean + half


def inverted(each: Array) -> Interval:
    """Every difference that the sign-flip test does not reject at 5 %."""
    people = each.shape[1]
    signs, exact = sign_patterns(people, PATTERNS, 0)
    flipped = (signs < 0).astype(np.float64)
    if not exact:
        flipped = np.concatenate([np.zeros((1, people)), flipped])
    counts = flipped.sum(axis=1)[:, None]
    sums = flipped @ each.T
    total = each.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        one = np.where(counts == 0, -math.inf, sums / counts)
        other = np.where(counts == people, math.inf, (total - sums) / (people - counts))
        other = np.where(counts == 0, math.inf, other)
    place = math.floor(0.05 * len(flipped) + 1e-9)
    low = np.partition(np.minimum(one, other), place, axis=0)[place]
    high = -np.partition(-np.maximum(one, other), place, axis=0)[place]
    return low, high


def plain_correlation(first: Array, second: Array) -> float:
    one, other = first - first.mean(), second - second.mean()
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size else 0.0


def candidates(first: Array, second: Array, samples: int) -> dict[str, Interval]:
    each = first - second
    found = {BOOTSTRAP: bootstrap(each), PLAIN: student(each), "sign-flip test inverted": inverted(each)}
    for added in (0.25, 0.5, 1.0):
        found[f"t, {added:g} of a person added at 1 and at -1"] = student(each, added)
    trials = float(samples * each.shape[1])
    pairs = list(zip(first, second, strict=True))
    for name, correlated in (("plain correlation", plain_correlation), ("no correlation", lambda one, other: 0.0)):
        with patch.object(differences, "_correlation", correlated):
            rows = np.array([combined_interval(one, other, (trials, trials)) for one, other in pairs])
        found[f"both shares' intervals combined, {name}"] = rows[:, 0], rows[:, 1]
    rows = np.array([combined_interval(one, other, (trials, trials)) for one, other in pairs])
    found["both shares' intervals combined"] = rows[:, 0], rows[:, 1]
    rows = np.array([difference_interval(one, other, trials=(trials, trials), draws=PATTERNS) for one, other in pairs])
    found[CHOSEN] = rows[:, 0], rows[:, 1]
    return found


class Cell(NamedTuple):
    """What one interval did in one population: shares of draws, and the mean width inside [-1, 1]."""

    coverage: float
    contradicts: float  # 0 lies outside and the sign-flip test says p > 0.05, or the other way round
    width: float


def measure(grid: list[Population], draws: int) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    with click.progressbar(grid, label="grid", file=sys.stderr) as each:
        for population in each:
            first, second = draw(population, draws)
            outside = {}
            for name, (low, high) in candidates(first, second, population.samples).items():
                inside = (low <= population.difference + 1e-12) & (high >= population.difference - 1e-12)
                width = float((np.clip(high, -1, 1) - np.clip(low, -1, 1)).mean())
                outside[name] = (low > 1e-12) | (high < -1e-12)
                found.setdefault(name, []).append(Cell(float(inside.mean()), 0.0, width))
            for name, verdict in outside.items():
                apart = float((verdict != outside["sign-flip test inverted"]).mean())
                found[name][-1] = found[name][-1]._replace(contradicts=apart)
    return found


def overview(found: dict[str, list[Cell]]) -> list[str]:
    """A row for each candidate: least coverage, populations below 93 %, mean width, most contradictions of the test."""
    lines = ["| interval | least coverage | below 93 % | mean width | contradicts the test, at most |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, cells in found.items():
        least, most = min(cell.coverage for cell in cells), max(cell.contradicts for cell in cells)
        below = sum(cell.coverage < 0.93 for cell in cells)
        width = sum(cell.width for cell in cells) / len(cells)
        lines.append(f"| {name} | {100 * least:.1f} % | {below} of {len(cells)} | {width:.2f} | {100 * most:.0f} % |")
    return lines


def by_size(grid: list[Population], found: dict[str, list[Cell]]) -> list[str]:
    """Least coverage over how people differ, bootstrap → in use, by people, samples, difference and share."""
    lines = ["| people | samples | difference | " + " | ".join(f"{share:g}" for share in SHARES) + " |"]
    lines.append("| --- |" + " --- |" * (len(SHARES) + 2))
    places: dict[tuple[float, ...], list[int]] = {}
    for place, _ in enumerate(grid):
        share, difference, people, samples = list(itertools.product(SHARES, DIFFERENCES, PEOPLE, SAMPLES))[
            place // len(KINDS)
        ]
        places.setdefault((share, difference, people, samples), []).append(place)
    for people, samples, difference in itertools.product(PEOPLE, SAMPLES, DIFFERENCES):
        texts = []
        for share in SHARES:
            here = places[share, difference, people, samples]
            before, now = (min(found[name][place].coverage for place in here) for name in (BOOTSTRAP, CHOSEN))
            texts.append(f"{100 * before:.0f} → {100 * now:.0f}")
        lines.append(f"| {people} | {samples} | {difference:g} | {' | '.join(texts)} |")
    return lines


@click.command(help=__doc__)
@click.option("--draws", default=1000, show_default=True, help="Simulated comparisons of each population.")
@click.option("--out", type=click.Path(path_type=Path), help="Write every figure as JSON.")
def main(draws: int, out: Path | None) -> None:
    grid = list(populations())
    found = measure(grid, draws)
    click.echo("\n".join([*overview(found), "", *by_size(grid, found)]))
    if out is not None:
        rows = [
            {"interval": name, **population._asdict(), **cell._asdict()}
            for name, cells in found.items()
            for population, cell in zip(grid, cells, strict=True)
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"draws": draws, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
