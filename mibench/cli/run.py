"""``mibench run``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from mibench.system.precision import PRECISIONS
from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .format import text_columns
from .options import access_option, device_option, json_option, output_option, plugin_option, set_option
from .prose import say

if TYPE_CHECKING:
    from mibench.results import StoredRun


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
@click.option(
    "--attack", metavar="NAME", help="The attack, NAME:VARIANT, or FILE.py:CLASS for your own.  [default: dmmia]"
)
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
@access_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Units of the attack in parallel processes; they share the CPU cores.",
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
    access: str | None,
    jobs: int,
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

    result = stdout_to_stderr()(run_attack)(
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
        access=access,
        jobs=jobs,
        allow_changed_code=allow_changed_code,
        reporter=reporter(),
    )
    finish(ctx, result, as_json)


def finish(ctx: click.Context, result: StoredRun, as_json: bool) -> None:
    """Print a run and exit with 1 if a required metric has no value."""
    if as_json:
        click.echo(json.dumps(as_plain(result), indent=2))
    else:
        for line in summary(result):
            say(line)
    for name, reason in result.missing.items():
        say(f"error: the protocol requires {name}, which has no value: {reason}", err=True)
    if result.missing:
        ctx.exit(1)


def as_plain(result: StoredRun) -> dict[str, object]:
    """A run as JSON."""
    from mibench.results.run_record import read_estimates

    return {
        "path": str(result.path),
        "reused": result.reused,
        "metrics": read_estimates(result.path / "metrics.json"),
        "cost": result.cost(),
        "missing": dict(result.missing),
        "floor": None if result.floor is None else as_plain(result.floor),
    }


def summary(result: StoredRun) -> list[str]:
    """The run beside its floor, one metric a line, with 95 % intervals, and what the run cost."""
    from mibench.results import absent_notes, arrow, estimate_text

    floor = {} if result.floor is None else result.floor.metrics
    infos = [info for info in result.infos.values() if "run" in info.views and info.name in result.metrics]
    rows = [
        [
            "",
            "this run (sees private images)" if result.sees_private else "this run",
            *(["the prior alone (floor)"] if floor else []),
        ]
    ]
    for info in infos:
        estimate = result.metrics[info.name]
        row = [info.heading + arrow(estimate.higher_is_better), estimate_text(estimate, info)]
        rows.append([*row, *([estimate_text(floor.get(info.name), info)] if floor else [])])
    lines = text_columns(rows)
    lines += absent_notes((info.title, result.metrics[info.name]) for info in infos)
    lines += ["", cost_line(result)]
    lines += ["", f"95 % intervals over identities; everything is in {result.path}"]
    for folder in ("tables", "figures"):
        if (result.path / folder).is_dir():
            lines.append(f"  {folder}: {result.path / folder}")
    return lines


def cost_line(run: StoredRun) -> str:
    """What the run cost: queries (part of the result), seconds and memory (of this machine)."""
    from mibench.results import count_text

    cost = run.cost()
    prepare, attack, per_identity = cost["prepare"], cost["attack"], cost["identity"]

    def both(stage: Mapping[str, float | None]) -> str:
        return f"{count_text(stage['queries_forward'])}+{count_text(stage['queries_backward'])}"

    seconds = [s for s in (prepare["seconds"], attack["seconds"]) if s is not None]
    peaks = [p for p in (prepare["peak_memory_bytes"], attack["peak_memory_bytes"]) if p is not None]
    line = (
        f"queries per identity: {count_text(per_identity['queries_forward'])} forward, "
        f"{count_text(per_identity['queries_backward'])} backward (prepare {both(prepare)}, attack {both(attack)})"
    )
    if seconds and peaks:
        line += f"; {sum(seconds):.1f} s, {max(peaks) / 1e9:.2f} GB"
    if (shown := cost.get("surrogate")) is not None:
        line += f"; {both(shown)} images shown to the surrogate"
    if spent := cost["prior"]["queries_forward"]:
        line += f"; {count_text(spent)} for the training of the prior"
    return line
