"""Stage e: the published budget, 200 candidates and 70 epochs (DMMIA: 1,750 steps): hours of a CPU for each row.

PPA, DMMIA and DMMIA without its prototypes, presets `paper`, against VGG16. How many people, and then how many seeds,
is decided by the speed that was measured a moment before: the three are compared on the same people, or not at all.
What time is left goes to DMMIA at larger rates, then to other seeds.
The people are one unit, so that DMMIA's memory sees all their classes and a step fills the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from figures import draw_published_budget
from loops import timed, workbench
from stage import BREAKDOWNS, Stage, one_line
from stage_main_job import shown

import mibench
from mibench import registry
from mibench.results import open_run
from mibench.runs.attack import MICRO_BATCH
from mibench.settings import Layer, attack_presets, resolve

TARGET = "vgg16"
PEOPLE = (50, 25, 10, 5)
SEEDS = (0, 1, 2)
OVERHEAD = 15.0  # seconds of a run besides its steps and its ranking (a guess that errs upwards)
RANKING = 0.35  # of an image-step: the forward pass of a victim (a guess that errs upwards)
WITHOUT = {"lambda_imr": 0.0, "lambda_idr": 0.0}
ROWS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("PPA", "ppa", {}),
    ("DMMIA", "dmmia", {}),
    ("DMMIA without prototypes", "dmmia", WITHOUT),
)
# The published rate was chosen for another mapping network: what decides is how far candidates move (docs/dmmia.md).
RATES = tuple(
    (f"{name}, rate {rate:g}", attack, {**extra, "learning_rate": rate})
    for rate in (4e-3, 1.6e-2)
    for name, attack, extra in ROWS[1:]
)
TINY: dict[str, dict[str, Any]] = {
    "ppa": {"pool_size": 32, "candidates": 4, "epochs": 2, "batch_size": 4, "selection_transforms": 1},
    "dmmia": {"pool_size": 32, "candidates": 4, "epochs": 2, "batch_size": 4, "selection_transforms": 1},
}


def main() -> None:
    """Measure, decide, run."""
    stage = Stage(__doc__)
    seconds = {name: step_seconds(stage, attack, extra) for name, attack, extra in ROWS}
    stage.record(seconds_per_step={name: per_step for name, (per_step, _) in seconds.items()})
    people = 2 if stage.tiny else decide(stage, seconds)
    stage.record(identities=people, target=TARGET, preset="paper")
    failures = 0
    parts = [(0, ROWS)] if stage.tiny else [(0, ROWS), (0, RATES), *((seed, ROWS) for seed in SEEDS[1:])]
    for number, (seed, rows) in enumerate(parts):
        for name, attack, extra in rows:
            if number and stage.left() < 1.2 * longest(stage):
                stage.say(f"{name}, seed {seed}, was not begun")
                return finish(failures)
            try:
                row = measured(stage, attack, extra, people, seed)
            except BREAKDOWNS as error:
                failures += 1
                row = {"reason": one_line(error)}
            stage.add("runs", {"name": name, "seed": seed, "identities": people, **row})
            stage.say(f"{name}, seed {seed}: {row.get('reason') or described(row)}")
            draw_published_budget(stage.found, stage.picture("published_budget"))
    return finish(failures)


def finish(failures: int) -> None:
    """Fail where a run failed."""
    if failures:
        raise SystemExit(f"{failures} runs failed")


def settings_of(stage: Stage, attack: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row that differ from the preset's."""
    return {**(TINY[attack] if stage.tiny else {}), **extra}


def step_seconds(stage: Stage, attack: str, extra: Mapping[str, Any]) -> tuple[float, Any]:
    """Seconds of one step of the whole unit, and the attack as configured."""
    people = 2 if stage.tiny else PEOPLE[0]
    changed = Layer("this script", settings_of(stage, attack, extra) | {"unit_size": people, "epochs": 70})
    preset = attack_presets(attack).presets["paper"]
    configured, _ = resolve(registry.load("attack", attack), [preset, changed], scope="attack")
    context = workbench(attack, TARGET, "shipped", stage.device)
    try:
        found = timed(
            configured,
            torch.arange(people),
            context,
            seconds=0.05 if stage.tiny else 1.0,
            micro_batch=MICRO_BATCH,  # as the run that is to be forecast
        )
    except BREAKDOWNS as error:
        raise SystemExit(f"{attack} cannot take a step of {people} people: {one_line(error)}") from error
    return found.seconds, configured


def decide(stage: Stage, seconds: Mapping[str, tuple[float, Any]]) -> int:
    """As many people as all rows can be run for with one seed. A step of fewer people is not faster by as much."""
    for people in PEOPLE:
        expected = sum(
            OVERHEAD + whole(per_step, configured, people / PEOPLE[0]) for per_step, configured in seconds.values()
        )
        if expected < 0.9 * stage.left():
            break
    stage.record(expected_seconds=round(expected, 1))
    stage.say(f"{people} people: about {expected:.0f} s for a seed")
    return people


def whole(per_step: float, configured: Any, share: float) -> float:
    """Seconds of an attack on a share of the people that ``per_step`` was measured with: half of a step is taken to
    grow with its images (small steps wait for launches), and the ranking wholly."""
    steps = configured.epochs * -(-configured.candidates // configured.batch_size)
    ranked = configured.candidates * configured.selection_transforms / (steps * configured.batch_size)
    return float(per_step * steps * ((0.5 + 0.5 * share) + RANKING * ranked * share))


def longest(stage: Stage) -> float:
    """Seconds of the longest run so far."""
    return max((row.get("seconds", 0.0) for row in stage.found.get("runs", [])), default=0.0)


def measured(stage: Stage, attack: str, extra: Mapping[str, Any], people: int, seed: int) -> dict[str, Any]:
    """One run with its floor."""
    started = time.perf_counter()
    settings = {f"attack.{name}": value for name, value in settings_of(stage, attack, extra).items()}
    settings |= {"attack.unit_size": people, "protocol.identities": people}
    if stage.tiny:
        settings |= {"protocol.samples": 2}
    run = mibench.run(
        attack,
        TARGET,
        protocol="smoke" if stage.tiny else "standard",
        preset="paper",
        seed=seed,
        settings=settings,
        device=str(stage.device),
        out=stage.work / "runs",
    )
    opened = open_run(run.path)
    cost = opened.cost()
    names = ("acc1", "acc5", "knn_distance", "true_identity_top1", "true_identity_error")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "attack_seconds": cost["attack"]["seconds"],
        "peak_memory_bytes": cost["attack"]["peak_memory_bytes"],
        "queries_backward": cost["attack"]["queries_backward"],
        **{name: shown(run.metrics[name]) for name in names if name in run.metrics},
        "floor_acc1": None if run.floor is None else shown(run.floor.metrics["acc1"]),
        "drift": [round(float(value), 4) for value in thinned(opened.curves["drift"].mean(dim=0))],
        "per_identity_acc1": per_identity(opened),
    }


def thinned(curve: torch.Tensor, points: int = 40) -> Iterator[float]:
    """At most so many values of a curve, the last one among them."""
    rows = torch.linspace(0, len(curve) - 1, min(points, len(curve))).round().long()
    yield from curve[rows].tolist()


def per_identity(opened: Any) -> dict[str, float]:
    """Share of each person's counted reconstructions that the judge accepts: what a paired test needs."""
    counted = opened.samples[opened.samples["selected"]]
    return {str(name): float(rows["hit1"].mean()) for name, rows in counted.groupby("identity")}


def described(row: Mapping[str, Any]) -> str:
    """A run in words."""
    accuracy, floor = row["acc1"], row["floor_acc1"]
    return (
        f"acc@1 {accuracy['value']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}], floor {floor['value']:.1%}, "
        f"drift {row['drift'][-1]:.2f}, {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
