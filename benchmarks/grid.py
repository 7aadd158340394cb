"""Run a grid of settings and seeds through ``mibench.run`` and tabulate it: searches and ablations share this.

A cell is an ordinary run directory, so a grid that was interrupted continues, and every number in its table can be
looked up in a record.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import mibench
from mibench.results import open_run

COLUMNS = ("acc1", "acc5", "knn_distance", "true_identity_error", "coverage", "div_feat_ratio")


@dataclass(frozen=True)
class Cell:
    """One setting under one seed."""

    name: str
    settings: Mapping[str, Any]
    seed: int


def cells(variants: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> list[Cell]:
    """Every variant under every seed, seed by seed, so that an interrupted grid is still balanced."""
    return [Cell(name, settings, seed) for seed, (name, settings) in itertools.product(seeds, variants.items())]


def run_cell(
    cell: Cell,
    *,
    attack: str = "dmmia",
    prior: str | None = None,
    target: str,
    protocol: str,
    out: Path,
    shared: Mapping[str, Any],
) -> dict[str, Any]:
    """Run one cell (or find it finished) and read its numbers.

    Returns:
        name, seed, seconds, floor's acc1, every metric of :data:`COLUMNS` as (value, low, high), and the last value of
        every curve, averaged over identities.
    """
    started = time.perf_counter()
    run = mibench.run(
        attack=attack,
        target=target,
        protocol=protocol,
        prior=prior,
        seed=cell.seed,
        settings={**shared, **cell.settings},
        out=out,
    )
    seconds = time.perf_counter() - started
    opened = open_run(run.path)
    row: dict[str, Any] = {"variant": cell.name, "target": target, "seed": cell.seed, "seconds": seconds}
    row["run"] = run.path.name
    if run.floor is not None:
        row["floor_acc1"] = run.floor.metrics["acc1"].value
        row["floor_run"] = run.floor.path.name
    for name in COLUMNS:
        metric = run.metrics[name]
        row[name], row[f"{name}_low"], row[f"{name}_high"] = metric.value, metric.low, metric.high
    for name, curve in opened.curves.items():
        row[f"final_{name}"] = float(curve[:, -1].mean())
    return row


def run_grid(
    grid: Sequence[Cell],
    *,
    attack: str = "dmmia",
    prior: str | None = None,
    target: str,
    protocol: str,
    out: Path,
    shared: Mapping[str, Any],
    table: Path,
) -> list[dict[str, Any]]:
    """Run all cells, writing the table after each."""
    import pandas

    rows: list[dict[str, Any]] = []
    # a table grows: what earlier calls measured stays
    before = pandas.read_csv(table).to_dict("records") if table.is_file() else []
    for number, cell in enumerate(grid, start=1):
        row = run_cell(cell, attack=attack, prior=prior, target=target, protocol=protocol, out=out, shared=shared)
        rows.append(row)
        table.parent.mkdir(parents=True, exist_ok=True)
        merged = pandas.DataFrame([*(r for r in before if r["run"] not in {each["run"] for each in rows}), *rows])
        merged.to_csv(table, index=False)
        drift = row.get("final_drift", float("nan"))
        click.echo(
            f"{number}/{len(grid)} {target} {cell.name} seed {cell.seed}: acc1 {row['acc1']:.3f} "
            f"[{row['acc1_low']:.3f}, {row['acc1_high']:.3f}], floor {row.get('floor_acc1', float('nan')):.3f}, "
            f"drift {drift:.2f}, {row['seconds']:.0f} s"
        )
    return rows
