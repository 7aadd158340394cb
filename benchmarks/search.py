"""The search behind the presets: every attack gets the same people, seed, target and query budget; no table uses them.

    python benchmarks/search.py --attack gmi --try "iterations=90" --try "restarts=16 batch_scale=1"
    python benchmarks/search.py --attack dmmia --protocol demo --no-budget --vary learning_rate=2e-3,6e-2

Prints accuracy with its interval for each setting and writes a CSV. Settings that are not named are the preset's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml
from grid import cells, run_grid

FIRST = 200  # the protocols of this project attack identities from 0 on; searches begin here


@click.command(help=__doc__)
@click.option("--attack", default="dmmia", show_default=True)
@click.option("--prior", help="Another prior than the attack's own.")
@click.option("--target", default="vgg16", show_default=True)
@click.option("--protocol", default="equal", show_default=True)
@click.option("--budget/--no-budget", default=True, show_default=True, help="Keep the protocol's query budget.")
@click.option("--vary", multiple=True, metavar="SETTING=A,B,C", help="Values to try, one at a time.")
@click.option("--try", "tries", multiple=True, metavar="'A=1 B=2'", help="Settings to try together.")
@click.option("--base", multiple=True, metavar="SETTING=VALUE", help="Settings that all cells share.")
@click.option("--first", default=FIRST, show_default=True, help="First identity of the search.")
@click.option("--identities", default=10, show_default=True)
@click.option("--seed", default=100, show_default=True, help="A seed that no table uses.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/search"), show_default=True)
def main(
    attack: str,
    prior: str | None,
    target: str,
    protocol: str,
    budget: bool,
    vary: tuple[str, ...],
    tries: tuple[str, ...],
    base: tuple[str, ...],
    first: int,
    identities: int,
    seed: int,
    out: Path,
) -> None:
    variants: dict[str, dict[str, Any]] = {}
    for item in vary:
        name, _, values = item.partition("=")
        for value in values.split(","):
            variants[f"{name}={value}"] = settings(f"{name}={value}")
    for item in tries:
        variants[item] = settings(*item.split())
    variants = variants or {"preset": {}}
    shared: dict[str, Any] = {"protocol.first_identity": first, "protocol.identities": identities}
    shared["protocol.public_control"] = 0  # a search compares settings with each other, not with public people
    shared |= settings(*base) | ({} if budget else {"protocol.query_budget": None})
    name = f"{attack}+{prior}" if prior else attack
    run_grid(
        cells(variants, [seed]),
        attack=attack,
        prior=prior,
        target=target,
        protocol=protocol,
        out=out,
        shared=shared,
        table=out / f"search-{name}-{target}-{protocol}.csv",
    )


def settings(*items: str) -> dict[str, Any]:
    """``A=1`` as a setting of the attack."""
    return {f"attack.{name}": number(value) for name, value in (item.split("=", 1) for item in items)}


def number(text: str) -> Any:
    """``1e-3`` as a number; everything else as YAML reads it: ``true``, ``null``, ``[0.9, 1.0]``, ``w``."""
    try:
        return float(text) if "e" in text else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


if __name__ == "__main__":
    main()
