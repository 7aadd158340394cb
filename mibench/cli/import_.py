"""``mibench import``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import rich_click as click

from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .options import device_option, json_option, output_option, set_option
from .prose import tell


@click.command(
    cls=CommandWithExamples,
    name="import",
    epilog="""Examples:

\b
  mibench import IR152_91.16.tar --as target:ir152@celeba
  mibench import FaceNet_95.88.tar --as judge:facenet112@celeba --set dataset.root=/data/celeba
  mibench import backbone_ir50_ms1m_epoch120.pth --as backbone:ir50@ms1m
  mibench import improved_celeba_G.tar improved_celeba_D.tar --as prior:kedmi@celeba+vgg16
  mibench import bido.tar --as target:vgg16@celeba+bido --reported 80.35 --source "Defend_MI, README"
""",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "wanted",
    required=True,
    metavar="KIND:ARCHITECTURE@DATASET[+TAG]",
    help="What the file is, and the name it gets.",
)
@set_option("import, dataset")
@click.option("--source", metavar="TEXT", help="Source of the weights, for the card.")
@click.option("--licence", metavar="TEXT", help="Licence of the weights, for the card.")
@click.option("--reported", type=float, metavar="PERCENT", help="Test accuracy reported by the source.")
@click.option("--sha256", multiple=True, metavar="HEX", help="Expected hash; once per file.")
@click.option("--replace", is_flag=True, help="Replace weights of the same name.")
@output_option(None, "Folder that gets cards/ and weights/.  [default: $MIBENCH_HOME]")
@device_option
@json_option
def import_command(
    *,
    files: tuple[Path, ...],
    wanted: str,
    assignments: tuple[str, ...],
    source: str | None,
    licence: str | None,
    reported: float | None,
    sha256: tuple[str, ...],
    replace: bool,
    output: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Import published weights: read them safely, load them strictly, measure them, write a card.

    KIND is target, judge, backbone or prior. Nothing in a file is executed. A classifier is measured on the test
    images of its data set, if available, and compared with the reported accuracy.
    """
    from mibench.commands import import_weights
    from mibench.errors import printable
    from mibench.settings import parse_assignments
    from mibench.system.canonical import plain
    from mibench.weights.importing.checkpoint_card import IMPORT_SCOPES

    from .progress import reporter

    done = stdout_to_stderr()(import_weights)(
        files,
        wanted,
        settings={scope: values for scope, values in parse_assignments(assignments, IMPORT_SCOPES).items() if values},
        source=source,
        licence=licence,
        reported=reported,
        sha256=sha256,
        replace=replace,
        out=output,
        device=device,
        reporter=reporter(),
    )
    card = done.card
    if as_json:
        details = {"unchanged": done.unchanged, "remarks": list(done.remarks), "doubts": list(done.doubts)}
        click.echo(json.dumps({"card": str(done.path), **details, **plain(dataclasses.asdict(card))}, indent=2))
        return
    state = "already present with the same weights" if done.unchanged else f"{card.weights.bytes / 1e6:.2f} MB"
    tell(f"{card.name}: {state}")
    measured, reported_there = (card.measured or {}).get("test_accuracy"), (card.reported or {}).get("test_accuracy")
    if measured is not None:
        images = (card.measured or {}).get("test_images")
        beside = "" if reported_there is None else f", {reported_there:.2%} reported"
        tell(f"  test accuracy: {measured:.2%} of {images:,} images{beside}")
    for text in done.remarks:
        click.echo(f"  {printable(text)}")
    for text in done.doubts:
        click.echo(f"warning: {printable(text)}; the card says so", err=True)
    click.echo(f"card: {printable(str(done.path))}")
