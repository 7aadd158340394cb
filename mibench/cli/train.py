"""``mibench train``."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import rich_click as click

from mibench.errors import printable
from mibench.system.precision import PRECISIONS
from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .options import device_option, json_option, output_option, plugin_option, set_option
from .progress import duration
from .prose import tell


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench train target vgg16 --tag mine
  mibench train judge facenet112 --tag mine --precision bfloat16
  mibench train prior stylegan2 --tag short --set train.images=200000
  mibench train prior kedmi --target vgg16+mine
  mibench train target vgg16 --tag smoothed --set train.label_smoothing=0.1
  mibench train target vgg16 --defence midre --tag midre-mine --set defence.largest=0.6
  mibench train backbone vgg16 --set train.width=0.25
""",
)
@click.argument("kind", metavar="KIND")
@click.argument("architecture", metavar="ARCHITECTURE")
@click.option("--dataset", default="synthfaces", show_default=True, metavar="NAME", help="Data set to train on.")
@click.option("--target", metavar="NAME", help="The classifier against which a prior is trained (KEDMI).")
@click.option(
    "--defence",
    "defences",
    multiple=True,
    metavar="NAME[:PRESET]",
    help="Train the target with a defence (repeat to combine several) by the recipe of its undefended twin.",
)
@click.option(
    "--twin", metavar="NAME", help="The undefended twin, or none.  [default: ARCHITECTURE@DATASET, where there is one]"
)
@click.option("--tag", metavar="NAME", help="Name the weights ARCHITECTURE@DATASET+NAME.")
@click.option("--seed", type=click.IntRange(min=0), help="Random seed.  [default: 0, or the twin's]")
@set_option("train, dataset, defence")
@output_option(None, "Folder that gets cards/ and weights/.  [default: $MIBENCH_HOME]")
@device_option
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Number format to train in.  [default: float32, or the twin's]",
)
@plugin_option
@json_option
def train(
    *,
    kind: str,
    architecture: str,
    dataset: str,
    target: str | None,
    defences: tuple[str, ...],
    twin: str | None,
    tag: str | None,
    seed: int | None,
    assignments: tuple[str, ...],
    output: Path | None,
    device: str,
    precision: str | None,
    as_json: bool,
) -> None:
    """Train a target, judge, regressor, prior or backbone; write its weights and a card with what was measured.

    KIND is target, judge, regressor, prior or backbone. Repeat the command to continue an interrupted training from
    its last checkpoint. Names of shipped weights are reserved: give yours a --tag. Weights trained with a defence are
    called ARCHITECTURE@DATASET+DEFENCE; their card names the defence with every setting, and the undefended twin.
    """
    from mibench.commands import train as train_network
    from mibench.settings import parse_assignments
    from mibench.system.canonical import plain
    from mibench.weights.training import TRAIN_SCOPES

    from .progress import reporter

    started = time.monotonic()
    trained = stdout_to_stderr()(train_network)(
        kind,
        architecture,
        dataset=dataset,
        target=target,
        defences=defences,
        twin=twin,
        tag=tag,
        seed=seed,
        precision=precision,
        settings=parse_assignments(assignments, TRAIN_SCOPES),
        out=output,
        device=device,
        reporter=reporter(),
    )
    path, card = trained.path, trained.card
    if as_json:
        click.echo(json.dumps({"card": str(path), **plain(dataclasses.asdict(card))}, indent=2))
        return
    tell(f"{card.name}: {card.weights.bytes / 1e6:.2f} MB in {duration(time.monotonic() - started)}")
    for name, value in (card.measured or {}).items():
        if isinstance(value, int | float | str):
            tell(f"  {name}: {value}")
    if card.defence is not None:
        for name, (theirs, own) in card.defence.differs_from_twin.items():
            tell(f"  not as the twin {card.defence.twin}: {name} {own} (twin: {theirs})")
    click.echo(f"card: {printable(str(path))}")
