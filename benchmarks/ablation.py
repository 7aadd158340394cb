"""DMMIA's ablation from settings alone: the full method, without IMR, without IDR, without both, under several seeds.

    python benchmarks/ablation.py --target vgg16 --protocol demo --seeds 0,1,2

Every cell is an ordinary `mibench run`. The table pools the seeds: an interval resamples identities, whose value is the
mean over seeds, and the differences from the full method are paired over identities and Holm-corrected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from grid import cells, run_grid

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "without IMR": {"attack.lambda_imr": 0.0},
    "without IDR": {"attack.lambda_idr": 0.0},
    "without both": {"attack.lambda_imr": 0.0, "attack.lambda_idr": 0.0},
}
METRICS = {
    "hit1": "acc@1",
    "hit5": "acc@5",
    "knn_distance": "KNN distance",
    "true_identity_error": "true identity error",
}


@click.command(help=__doc__)
@click.option("--target", default="vgg16", show_default=True)
@click.option("--protocol", default="demo", show_default=True)
@click.option("--identities", type=int, help="Attack so many identities instead of the protocol's number.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablation"), show_default=True)
def main(target: str, protocol: str, identities: int | None, seeds: str, out: Path) -> None:
    import pandas

    from mibench.results import open_run

    shared = {} if identities is None else {"protocol.identities": identities}
    rows = run_grid(
        cells(VARIANTS, [int(s) for s in seeds.split(",")]),
        target=target,
        protocol=protocol,
        out=out,
        shared=shared,
        table=out / f"cells-{target}-{protocol}.csv",
    )
    per_identity = []
    floors: dict[str, Any] = {}
    for row in rows:
        run = open_run(out / row["run"])
        chosen = run.samples[run.samples["selected"]]
        means = chosen.groupby("identity")[list(METRICS)].mean()
        per_identity.append(means.assign(variant=row["variant"], seed=row["seed"]).reset_index())
    for name in sorted({row["floor_run"] for row in rows}):
        run = open_run(out / name)
        chosen = run.samples[run.samples["selected"]]
        means = chosen.groupby("identity")[list(METRICS)].mean()
        floors[name] = means.assign(variant="floor", seed=run.seed).reset_index()
    everything = pandas.concat([*floors.values(), *per_identity])
    text = markdown(everything)
    (out / f"ablation-{target}-{protocol}.md").write_text(text, encoding="utf-8")
    everything.to_csv(out / f"ablation-{target}-{protocol}.csv", index=False)
    click.echo(text)


def markdown(table: Any) -> str:
    """Value and interval of every variant, and the paired difference of acc@1 from the full method."""
    from mibench.metrics.estimates import compared, holm_adjust, mean

    averaged = table.groupby(["variant", "identity"])[list(METRICS)].mean().reset_index()
    seeds = table["seed"].nunique()
    order = ["floor", *VARIANTS]
    full = averaged[averaged.variant == "full"].set_index("identity")["hit1"]
    tested = {}
    for variant in order:
        if variant in ("full", "floor") or variant not in set(averaged.variant):
            continue
        other = averaged[averaged.variant == variant].set_index("identity")["hit1"]
        tested[variant] = compared("acc1", other.to_numpy(), full.loc[other.index].to_numpy())
    adjusted = dict(zip(tested, holm_adjust([c.params["p_value"] for c in tested.values()]), strict=True))
    lines = [
        "| variant | " + " | ".join(METRICS.values()) + " | acc@1 minus full | p (Holm) |",
        "| --- |" + " --- |" * (len(METRICS) + 2),
    ]
    for variant in order:
        part = averaged[averaged.variant == variant]
        if part.empty:
            continue
        entries = []
        for column in METRICS:
            estimate = mean(column, part[column].to_numpy(), part["identity"].to_numpy())
            entries.append(f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]")
        if variant in tested:
            d = tested[variant]
            entries += [f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]", f"{adjusted[variant]:.2g}"]
        else:
            entries += ["", ""]
        lines.append(f"| {variant} | " + " | ".join(entries) + " |")
    lines.append("")
    lines.append(f"{full.size} identities, {seeds} seeds; 95 % intervals over identities, values averaged over seeds.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
