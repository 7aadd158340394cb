"""The search behind DMMIA's presets, on identities that no table uses.

    python benchmarks/search_dmmia.py --target vgg16 --protocol demo --rates 2e-3,2e-2,6e-2,1.2e-1
    python benchmarks/search_dmmia.py --vary temperature=0.05,0.1,0.5 --vary prototype_rate=1e-5,1e-3

Prints accuracy with its interval and the drift of w that each setting gave, and writes a CSV.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from grid import cells, run_grid

FIRST = 200  # the protocols of this project attack identities from 0 on; searches begin here


@click.command(help=__doc__)
@click.option("--target", default="vgg16", show_default=True)
@click.option("--protocol", default="demo", show_default=True)
@click.option("--rates", default="2e-3,2e-2,6e-2", show_default=True, help="Learning rates of phi to try.")
@click.option("--vary", multiple=True, metavar="SETTING=A,B,C", help="Other settings of the attack to try, one by one.")
@click.option("--base", multiple=True, metavar="SETTING=VALUE", help="Settings that all cells share.")
@click.option("--first", default=FIRST, show_default=True, help="First identity of the search.")
@click.option("--identities", default=10, show_default=True)
@click.option("--seed", default=100, show_default=True, help="A seed that no table uses.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/search"), show_default=True)
def main(
    target: str,
    protocol: str,
    rates: str,
    vary: tuple[str, ...],
    base: tuple[str, ...],
    first: int,
    identities: int,
    seed: int,
    out: Path,
) -> None:
    variants: dict[str, dict[str, Any]] = {}
    for rate in filter(None, rates.split(",")):
        variants[f"learning_rate={rate}"] = {"attack.learning_rate": float(rate)}
    for item in vary:
        name, _, values = item.partition("=")
        for value in values.split(","):
            variants[f"{name}={value}"] = {f"attack.{name}": number(value)}
    shared: dict[str, Any] = {"protocol.first_identity": first, "protocol.identities": identities}
    shared |= {f"attack.{name}": number(value) for name, value in (item.split("=", 1) for item in base)}
    run_grid(
        cells(variants, [seed]),
        target=target,
        protocol=protocol,
        out=out,
        shared=shared,
        table=out / f"search-{target}-{protocol}.csv",
    )


def number(text: str) -> Any:
    """``0.1`` as a number, ``w`` as text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    main()
