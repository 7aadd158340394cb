"""How often a gate passes, fails or stays undecided, for classifiers whose true increase is known.

    python benchmarks/gate_error_rates.py                  # both tables of docs/ci.md; some ten minutes on one core
    python benchmarks/gate_error_rates.py --draws 50       # a look

A simulated gate is a number of people with the same number of samples each, attacked before and after a change. Hit
rates of people follow a beta distribution with mean 0.6 and correlation 0.3 of two samples of a person; a change moves
every person's rate on the logit scale, by what moves their mean by the true increase, and each by chance of their own
(standard deviation 0.5), since another training moves people in either direction. Counts are binomial.
"""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache

import click
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from mibench.metrics.margins import Increase
from mibench.results import markdown_lines

Array = NDArray[np.float64]

MEAN, CORRELATION, OWN = 0.6, 0.3, 0.5
SAMPLES, CONFIDENCE = 8, 0.95
PEOPLE = (10, 25, 50, 100)
INCREASES = (0.0, 0.05, 0.1, 0.15, 0.2)
MARGINS = (0.05, 0.1)
CHANGES, DRIFT = 10, (0.0, 0.04)


def rates(generator: np.random.Generator, people: int) -> Array:
    """Hit rates of people ``(people,)``."""
    total = 1 / CORRELATION - 1
    return generator.beta(MEAN * total, (1 - MEAN) * total, people).clip(1e-6, 1 - 1e-6)


def moved(generator: np.random.Generator, before: Array, increase: float) -> Array:
    """Their hit rates after a change whose mean increase over many people is ``increase``."""
    own = generator.normal(0, OWN, len(before))
    return np.asarray(expit(logit(before) + own + shift_of(increase)), dtype=np.float64)


@cache
def shift_of(increase: float) -> float:
    """The step on the logit scale that moves the mean rate of many people by ``increase``."""
    many = rates(np.random.default_rng(0), 20_000)
    own = np.random.default_rng(1).normal(0, OWN, len(many))
    return float(brentq(lambda by: float(expit(logit(many) + own + by).mean() - many.mean()) - increase, -5, 5))


def verdict(generator: np.random.Generator, before: Array, after: Array, margin: float) -> str:
    """What a gate says of samples drawn at these rates."""
    old, new = (generator.binomial(SAMPLES, each) / SAMPLES for each in (before, after))
    trials = float(SAMPLES * len(before))
    increase = Increase(new=new.tolist(), old=old.tolist(), trials=(trials, trials))
    if increase.mean > margin and increase.p_above() <= 1 - CONFIDENCE:
        return "fail"
    return "pass" if increase.p_below(margin) <= 1 - CONFIDENCE else "undecided"


def single(draws: int) -> list[list[str]]:
    """Rows of people × true increase, columns of margins."""
    rows = [["people", "true increase", *(f"margin {100 * margin:.0f}: pass / fail / undecided" for margin in MARGINS)]]
    for people, increase in itertools.product(PEOPLE, INCREASES):
        row = [str(people), f"{100 * increase:.0f} points"]
        for margin in MARGINS:
            generator = np.random.default_rng([people, round(1000 * increase), round(1000 * margin)])
            counts: Counter[str] = Counter()
            for _ in range(draws):
                before = rates(generator, people)
                counts[verdict(generator, before, moved(generator, before, increase), margin)] += 1
            row.append(" / ".join(f"{100 * counts[each] / draws:.0f}" for each in ("pass", "fail", "undecided")))
        rows.append(row)
    return rows


def in_a_row(draws: int, people: int = 50, margin: float = 0.1) -> list[list[str]]:
    """``CHANGES`` gates, each of a change that leaks ``DRIFT`` more than the one before, against a baseline that stays
    or that is renewed after every change that passed."""
    rows = [["each change", "baseline", "all passed", "some failed", "leak after those that passed"]]
    for drift, renewed in itertools.product(DRIFT, (False, True)):
        generator = np.random.default_rng([round(1000 * drift), renewed])
        passed, failed, leaked = 0, 0, []
        for _ in range(draws):
            current = baseline = rates(generator, people)
            said = []
            for _ in range(CHANGES):
                after = moved(generator, current, drift)
                said.append(verdict(generator, baseline, after, margin))
                if said[-1] == "pass":
                    current = after
                    baseline = after if renewed else baseline
            passed += set(said) == {"pass"}
            failed += "fail" in said
            leaked.append(float(current.mean() - MEAN))
        rows.append(
            [
                f"+{100 * drift:.0f} points",
                "renewed" if renewed else "stays",
                f"{100 * passed / draws:.0f} %",
                f"{100 * failed / draws:.0f} %",
                f"{100 * np.mean(leaked):+.1f} points",
            ]
        )
    return rows


@click.command()
@click.option("--draws", type=click.IntRange(min=1), default=400, show_default=True, help="Gates of each kind.")
def main(draws: int) -> None:
    """Print both tables."""
    for rows in (single(draws), in_a_row(max(1, draws // 4))):
        click.echo("\n".join([*markdown_lines(rows), ""]))


if __name__ == "__main__":
    main()
