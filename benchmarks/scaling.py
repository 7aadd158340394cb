"""When would a whole table be done with 8 to 1,000 workers? A simulation from unit costs that runs have measured.

    python benchmarks/scaling.py --runs runs/demo --runs runs/search
    python benchmarks/scaling.py --runs runs/demo --cost gmi=4.0 --workers 8,64,512 --identities 1000

Reads the seconds of every stored unit below the folders (complete runs on a CPU with one thread) and prints, for each
attack, seconds an identity, and the machine-hours of a table of attacks x targets x defences x seeds at that cost. Then
workers take cells as an executor gives them out: in order, each to whoever is free. The seconds of each unit are drawn
from the measured ones of its attack. Disturbances, all drawn from the seed: workers that are faster and slower
(`--spread`), units that take several times as long (`--stragglers`), workers that die and are started again (`--mtbf`;
the unit at work is lost), and a shared storage that takes one file after another (`--storage`).

The same is simulated with each cell divided into parts of `--part` identities. A sweep does not divide cells: this says
what dividing them, as runs with fewer identities each, would gain. The efficiency is the work over workers x time, work
being what undisturbed workers of speed 1 need. Nothing of this was measured on so many workers.
"""

from __future__ import annotations

import heapq
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

Costs = Mapping[str, Sequence[float]]  # attack -> seconds an identity of each measured unit


@dataclass(frozen=True, kw_only=True)
class Table:
    """What is to be computed.

    Attributes:
        unit: identities that are attacked, and stored, together.
    """

    identities: int
    targets: int
    defences: int
    seeds: int
    unit: int


@dataclass(frozen=True, kw_only=True)
class Disturbances:
    """What keeps workers from their work.

    Attributes:
        overhead: seconds of each cell beside its units: start, judging, tables.
        restart: seconds until a worker that died is there again.
        spread: standard deviation of the logarithm of the workers' speeds.
        stragglers: share of units that take ``slow`` times as long.
        mtbf: hours of a worker between two deaths; 0: none.
        storage: seconds that the storage is busy with a unit.
    """

    overhead: float
    restart: float
    spread: float
    stragglers: float
    slow: float
    mtbf: float
    storage: float


@click.command(help=__doc__)
@click.option("--runs", multiple=True, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--protocol", default="demo", show_default=True, help="Only runs of this protocol.")
@click.option(
    "--cost", "given", multiple=True, metavar="ATTACK=SECONDS", help="An identity's seconds, unmeasured here."
)
@click.option("--skip", multiple=True, metavar="ATTACK", help="Leave an attack out.")
@click.option("--attacks", default=8, show_default=True, help="As many; beyond the measured ones at their mean cost.")
@click.option("--identities", default=1000, show_default=True)
@click.option("--targets", default=3, show_default=True)
@click.option("--defences", default=8, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--unit", default=10, show_default=True, help="Identities of a unit.")
@click.option("--part", default=100, show_default=True, help="Identities of a part, where cells are divided.")
@click.option("--workers", default="8,32,100,316,1000", show_default=True)
@click.option("--overhead", default=10.0, show_default=True, help="Seconds of a cell beside its units.")
@click.option("--restart", default=30.0, show_default=True)
@click.option("--spread", default=0.1, show_default=True)
@click.option("--stragglers", default=0.01, show_default=True)
@click.option("--slow", default=5.0, show_default=True)
@click.option("--mtbf", default=100.0, show_default=True, help="Hours between two deaths of a worker; 0: none.")
@click.option("--storage", default=0.02, show_default=True, help="Seconds of the storage for each unit.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    runs: tuple[Path, ...],
    protocol: str,
    given: tuple[str, ...],
    skip: tuple[str, ...],
    attacks: int,
    identities: int,
    targets: int,
    defences: int,
    seeds: int,
    unit: int,
    part: int,
    workers: str,
    overhead: float,
    restart: float,
    spread: float,
    stragglers: float,
    slow: float,
    mtbf: float,
    storage: float,
    seed: int,
    out: Path | None,
) -> None:
    costs: dict[str, Sequence[float]] = {**measured(runs, protocol)}
    for item in given:
        name, _, seconds = item.partition("=")
        costs[name] = [float(seconds)]
    costs = {name: costs[name] for name in sorted(costs) if name not in skip}
    if not costs:
        raise click.ClickException(f"no units of complete runs of protocol {protocol} on a CPU with one thread there")
    mean = statistics.mean(statistics.mean(units) for units in costs.values())
    for number in range(len(costs), attacks):
        costs[f"another ({number + 1})"] = [mean]
    table = Table(identities=identities, targets=targets, defences=defences, seeds=seeds, unit=unit)
    trouble = Disturbances(
        overhead=overhead,
        restart=restart,
        spread=spread,
        stragglers=stragglers,
        slow=slow,
        mtbf=mtbf,
        storage=storage,
    )
    each = targets * defences * seeds
    hours = {name: statistics.mean(units) * identities * each / 3600 for name, units in costs.items()}
    click.echo(f"{len(costs) * each} cells of {identities:,} identities, {sum(hours.values()):,.0f} worker-hours")
    for name, units in costs.items():
        click.echo(
            f"  {name}: {statistics.mean(units):.2f} s an identity ({len(units)} units), {hours[name]:,.0f} hours"
        )
    click.echo("workers | cells: hours, efficiency | divided cells: hours, efficiency")
    rows = []
    for count in map(int, workers.split(",")):
        whole = simulated(costs, table, trouble, count, identities, seed)
        divided = simulated(costs, table, trouble, count, part, seed)
        rows.append({"workers": count, "cells": whole, "divided": divided})
        texts = [f"{one['hours']:,.1f}, {one['efficiency']:.0%}" for one in (whole, divided)]
        click.echo(f"{count:7,} | " + " | ".join(texts))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"hours": hours, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def measured(folders: Sequence[Path], protocol: str) -> dict[str, list[float]]:
    """Attack -> seconds an identity of each stored unit."""
    costs = defaultdict(list)
    for record in sorted({path for folder in folders for path in folder.glob("**/run.json")}):
        run = json.loads(record.read_text())
        if run.get("status") != "complete" or run["spec"]["protocol"]["name"].partition(" ")[0] != protocol:
            continue  # a protocol with settings of one's own is called "demo (changed)"
        units = {path: json.loads(path.read_text()) for path in sorted((record.parent / "units").glob("*.json"))}
        if any(one["device"] != "cpu" or one.get("threads") != 1 for one in units.values()):
            continue
        attack = run["spec"]["attack"]
        costs[attack] += [
            one["seconds"] / identities_of(path.with_suffix(".safetensors")) for path, one in units.items()
        ]
    return dict(costs)


def identities_of(unit: Path) -> int:
    """How many identities a stored unit has, from the header of its file."""
    with unit.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return len(json.loads(header["__metadata__"]["mibench"])["identities"])


def simulated(
    costs: Costs, table: Table, trouble: Disturbances, workers: int, part: int, seed: int
) -> dict[str, float]:
    """Hours until the last of ``workers`` is done, and the share of their time that was work."""
    chance = random.Random(f"{seed} {workers} {part}")
    speeds = [chance.lognormvariate(0.0, trouble.spread) for _ in range(workers)]
    jobs = (
        (name, min(part, table.identities - first))
        for name in costs
        for _ in range(table.targets * table.defences * table.seeds)
        for first in range(0, table.identities, part)
    )
    events = [(0.0, worker) for worker in range(workers)]  # when something happens to a worker next
    left = [0] * workers  # identities of its job that are not stored
    attack = [""] * workers
    computed = [0] * workers  # identities of a unit that waits for the storage
    storage_free, last, work = 0.0, 0.0, 0.0
    while events:
        now, worker = heapq.heappop(events)
        if computed[worker]:
            left[worker] -= computed[worker]
            computed[worker] = 0
            now = storage_free = max(now, storage_free) + trouble.storage
        elif left[worker]:
            size = min(table.unit, left[worker])
            seconds = chance.choice(costs[attack[worker]]) * size
            taken = seconds * (trouble.slow if chance.random() < trouble.stragglers else 1.0) / speeds[worker]
            if trouble.mtbf and chance.random() < taken / (3600 * trouble.mtbf):
                now += taken * chance.random() + trouble.restart  # the unit is lost
            else:
                now, work, computed[worker] = now + taken, work + seconds, size
        elif (job := next(jobs, None)) is not None:
            attack[worker], left[worker] = job
            now, work = now + trouble.overhead / speeds[worker], work + trouble.overhead
        else:
            last = max(last, now)
            continue
        heapq.heappush(events, (now, worker))
    return {"hours": last / 3600, "efficiency": work / (workers * last)}


if __name__ == "__main__":
    main()
