"""``mibench run``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from mibench.system.precision import PRECISIONS
from mibench.system.stdout_guard import spoken_aside

from .examples import CommandWithExamples
from .options import device_option, json_option, output_option, plugin_option, set_option
from .prose import say

if TYPE_CHECKING:
    from mibench.api import Estimate
    from mibench.results import StoredRun

SHOWN = (
    ("acc1", "attack accuracy @1"),
    ("acc5", "attack accuracy @5"),
    ("knn_distance", "KNN distance"),
    ("true_identity_error", "true identity error"),
    ("true_identity_top1", "true identity found"),
)


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench run                                     DMMIA against VGG16
  mibench run --target ir152 --protocol standard  more identities: results to quote
  mibench run --target ir152 --dataset celeba     CelebA, with the protocol of the literature
  mibench run --set attack.lambda_imr=0           change one setting
  mibench run --config runs/NAME/config.yaml      repeat a run
""",
)
@click.option("--attack", metavar="NAME", help="The attack, or FILE.py:CLASS for your own.  [default: dmmia]")
@click.option("--target", metavar="NAME", help="The classifier under attack.  [default: vgg16]")
@click.option("--dataset", metavar="NAME", help="The data set.  [default: synthfaces]")
@click.option("--protocol", metavar="NAME", help="Identities to attack and how to judge.  [default: the data set's]")
@click.option("--prior", metavar="NAME", help="The generative prior.  [default: the protocol's]")
@click.option("--preset", metavar="NAME", help="Named settings of the attack.  [default: the protocol's]")
@click.option("--seed", type=click.IntRange(min=0), help="Random seed.  [default: 0]")
@set_option("attack, dataset, prior, protocol")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file with the same names; flags take precedence.")
@output_option("runs", "Folder of run directories.")
@device_option
@click.option("--precision", type=click.Choice(PRECISIONS), help="Number format of the attack.  [default: float32]")
@click.option(
    "--min-accuracy",
    type=float,
    metavar="SHARE",
    help="Minimum test accuracy of target and judge.  [default: twice chance]",
)
@click.option("--allow-changed-code", is_flag=True, help="Resume although the code has changed since.")
@plugin_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    *,
    attack: str | None,
    target: str | None,
    dataset: str | None,
    protocol: str | None,
    prior: str | None,
    preset: str | None,
    seed: int | None,
    assignments: tuple[str, ...],
    config: Path | None,
    output: Path,
    device: str,
    precision: str | None,
    min_accuracy: float | None,
    allow_changed_code: bool,
    as_json: bool,
) -> None:
    """Attack a classifier, judge the reconstructions, write tables and figures.

    Without options: `--attack dmmia --target vgg16 --dataset synthfaces --protocol demo`. Other data sets have
    default protocols of their own. The same command uses the same folder: it continues an interrupted run and shows a
    finished one.
    """
    from mibench.commands import run as run_attack
    from mibench.runs.request import SCOPES
    from mibench.settings import parse_assignments

    from .progress import reporter

    found = spoken_aside()(run_attack)(
        attack,
        target,
        dataset,
        protocol,
        prior=prior,
        preset=preset,
        seed=seed,
        settings=parse_assignments(assignments, SCOPES),
        config=config,
        out=output,
        device=device,
        precision=precision,
        min_accuracy=min_accuracy,
        allow_changed_code=allow_changed_code,
        reporter=reporter(),
    )
    finish(ctx, found, as_json)


def finish(ctx: click.Context, found: StoredRun, as_json: bool) -> None:
    """Print a run and exit with 1 if a required metric has no value."""
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=2))
    else:
        for line in summary(found):
            say(line)
    for name, reason in found.missing.items():
        say(f"error: the protocol requires {name}, which has no value: {reason}", err=True)
    if found.missing:
        ctx.exit(1)


def as_plain(found: StoredRun) -> dict[str, object]:
    """A run as JSON."""
    from mibench.results.run_record import read_estimates

    return {
        "path": str(found.path),
        "reused": found.reused,
        "metrics": read_estimates(found.path / "metrics.json"),
        "cost": found.cost(),
        "missing": dict(found.missing),
        "floor": None if found.floor is None else as_plain(found.floor),
    }


def summary(found: StoredRun) -> list[str]:
    """The run beside its floor, one metric a line, with 95 % intervals, and what the run cost."""
    names = [(name, title) for name, title in SHOWN if name in found.metrics]
    width = max((len(title) for _, title in names), default=0)
    lines = [f"{'':{width}}  {'this run':24}" + ("  the prior alone (floor)" if found.floor else "")]
    for name, title in names:
        row = f"{title:{width}}  {cell(found.metrics[name]):24}"
        if found.floor is not None and name in found.floor.metrics:
            row += f"  {cell(found.floor.metrics[name])}"
        lines.append(row.rstrip())
    lines += [
        f"no {title}: {found.metrics[name].reason}"
        for name, title in names
        if found.metrics[name].params.get("cannot_differ")
    ]
    lines += ["", cost_line(found)]
    lines += ["", f"95 % intervals over identities; everything is in {found.path}"]
    for folder, what in (("tables", "tables"), ("figures", "figures")):
        if (found.path / folder).is_dir():
            lines.append(f"  {what}: {found.path / folder}")
    return lines


def cost_line(run: StoredRun) -> str:
    """What the run cost: queries (part of the result), seconds and memory (of this machine)."""
    cost = run.cost()
    prepare, attack, each = cost["prepare"], cost["attack"], cost["identity"]

    def both(stage: Mapping[str, float | None]) -> str:
        return f"{number(stage['queries_forward'])}+{number(stage['queries_backward'])}"

    seconds = [s for s in (prepare["seconds"], attack["seconds"]) if s is not None]
    peaks = [p for p in (prepare["peak_memory_bytes"], attack["peak_memory_bytes"]) if p is not None]
    line = (
        f"queries per identity: {number(each['queries_forward'])} forward, {number(each['queries_backward'])} backward "
        f"(prepare {both(prepare)}, attack {both(attack)})"
    )
    if seconds and peaks:
        line += f"; {sum(seconds):.1f} s, {max(peaks) / 1e9:.2f} GB"
    if spent := cost["prior"]["queries_forward"]:
        line += f"; {number(spent)} for the training of the prior"
    return line


def number(value: float | None) -> str:
    """``1,000``, ``1,700.1``, or ``?`` for what was not recorded."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def cell(estimate: Estimate) -> str:
    """``0.78 [0.62, 0.90]``."""
    if estimate.value is None:
        return "none"
    text = f"{estimate.value:.4g}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.4g}, {estimate.high:.4g}]"
    return text
