"""What gates of a size can see, from stored runs against several trainings of one recipe.

    mibench train target vgg16 --defence none --seed 1 --tag seed-1                          # and others
    mibench run --attack ppa --target vgg16+seed-1 --protocol gate --output runs/power       # and the others
    python benchmarks/gate_power.py runs/power/ppa-*

Every two runs of one target (other attack seeds) are weights that have not changed, before and after; every two of
different targets are a recipe that has not changed. A simulated gate draws people with replacement and some of each
person's samples. A classifier that leaks more is the same one with misses that count as hits, each with the chance that
raises the mean by as much.

With three trainings or more, gates against several accepted ones follow: each run beside every set of runs of other
trainings, whole as they are, of which the one that leaks most counts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mibench.metrics.margins import Increase
from mibench.results import markdown_lines, open_run

Array = NDArray[np.float64]

PEOPLE, SAMPLES = (10, 20, 30, 40, 50), (4, 8, 16)
MARGIN, CONFIDENCE = 0.1, 0.95
INCREASES = (0.0, 0.1, 0.2)


def hits(run: Path) -> Array:
    """Whether the judge accepted each selected sample, ``(I, S)``."""
    table = pd.read_csv(run / "samples.csv")
    table = table[table["selected"]]
    return np.stack([group["hit1"].to_numpy(dtype=np.float64) for _, group in table.groupby("identity")])


def verdict(generator: np.random.Generator, before: Array, after: Array, people: int, samples: int, more: float) -> str:
    """What a gate says of ``people`` drawn from the rows of both, with ``samples`` of each."""
    rows = generator.integers(len(before), size=people)
    old, new = (
        np.take_along_axis(each[rows], generator.random((people, each.shape[1])).argsort(axis=1)[:, :samples], axis=1)
        for each in (before, after)
    )
    chance = more / max(1e-9, 1 - after.mean())
    return decide(old, np.maximum(new, generator.random(new.shape) < chance))


def decide(old: Array, new: Array) -> str:
    """What a gate says of hits ``(I, S)`` before and after."""
    trials = float(old.size)
    increase = Increase(new=new.mean(axis=1).tolist(), old=old.mean(axis=1).tolist(), trials=(trials, trials))
    if increase.mean > MARGIN and increase.p_above() <= 1 - CONFIDENCE:
        return "fail"
    return "pass" if increase.p_below(MARGIN) <= 1 - CONFIDENCE else "undecided"


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--draws", type=click.IntRange(min=1), default=8, show_default=True, help="Gates per pair of runs.")
def main(runs: tuple[Path, ...], draws: int) -> None:
    """Print pass, fail and undecided by people, samples and true increase."""
    targets = {run: open_run(run).target for run in runs}
    accepted = {run: hits(run) for run in runs}
    means = ", ".join(f"{100 * accepted[run].mean():.1f} % ({targets[run]})" for run in runs)
    click.echo(f"acc@1: {means}\n")
    every = list(itertools.permutations(runs, 2))
    for what, pairs in (
        ("the same weights", [(a, b) for a, b in every if targets[a] == targets[b]]),
        ("other trainings", [(a, b) for a, b in every if targets[a] != targets[b]]),
    ):
        if pairs:
            click.echo(f"{len(pairs)} ordered pairs of {what}: pass / fail / undecided in percent, margin 10 points\n")
            click.echo("\n".join([*markdown_lines(table(accepted, pairs, draws)), ""]))
    if len(set(targets.values())) > 2:
        click.echo("against the one that leaks most of several trainings, every run with all people and samples\n")
        click.echo("\n".join(markdown_lines(against_several(accepted, targets, draws))))


def table(accepted: Mapping[Path, Array], pairs: Sequence[tuple[Path, Path]], draws: int) -> list[list[str]]:
    """Rows of people and samples, columns of true increases."""
    rows = [["people", "samples", *(f"+{100 * each:.0f} points" for each in INCREASES)]]
    for people, samples in itertools.product(PEOPLE, SAMPLES):
        row = [str(people), str(samples)]
        for more in INCREASES:
            generator = np.random.default_rng([people, samples, round(100 * more)])
            counts = Counter(
                verdict(generator, accepted[before], accepted[after], people, samples, more)
                for before, after in pairs
                for _ in range(draws)
            )
            row.append(
                " / ".join(f"{100 * counts[each] / counts.total():.0f}" for each in ("pass", "fail", "undecided"))
            )
        rows.append(row)
    return rows


def against_several(accepted: Mapping[Path, Array], targets: Mapping[Path, str], draws: int) -> list[list[str]]:
    """Rows of how many trainings are accepted, columns of true increases over the candidate's own hits."""
    names = sorted(set(targets.values()))
    rows = [["accepted trainings", "gates", *(f"+{100 * each:.0f} points" for each in INCREASES)]]
    for size in range(1, len(names)):
        sets = [
            (new, chosen)
            for new in accepted
            for others in itertools.combinations([name for name in names if name != targets[new]], size)
            for chosen in itertools.product(*([run for run in accepted if targets[run] == name] for name in others))
        ]
        row = [str(size), str(len(sets))]
        for more in INCREASES:
            generator = np.random.default_rng([size, round(100 * more)])
            counts: Counter[str] = Counter()
            for new, chosen in sets:
                old = max((accepted[run] for run in chosen), key=lambda hit: float(hit.mean()))
                after = accepted[new]
                chance = more / max(1e-9, 1 - after.mean())
                for _ in range(draws if more else 1):
                    counts[decide(old, np.maximum(after, generator.random(after.shape) < chance))] += 1
            row.append(
                " / ".join(f"{100 * counts[each] / counts.total():.0f}" for each in ("pass", "fail", "undecided"))
            )
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
