"""``mibench data``: previews and checks of data sets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import rich_click as click

from .data_fixture import fixture
from .examples import CommandWithExamples
from .options import json_option, output_option, set_option
from .prose import tell

BAD_INPUT = 2


@click.group()
def data() -> None:
    """Preview, check and imitate data sets."""


data.add_command(fixture)


@data.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench data preview
  mibench data preview synthfaces --set dataset.nuisance=0.5 --output easy.png
  mibench data preview celeba --set dataset.root=/data/celeba --show-faces
""",
)
@click.argument("dataset", default="synthfaces")
@click.option(
    "--people", type=click.IntRange(1, 64), default=8, show_default=True, help="Number of private people, one per row."
)
@click.option("--images", type=click.IntRange(1, 32), default=10, show_default=True, help="Images per row.")
@click.option("--size", type=click.IntRange(16, 256), default=64, show_default=True, help="Side in pixels.")
@click.option("--show-faces", is_flag=True, help="Show faces of real people, which are otherwise mosaics.")
@set_option("dataset")
@output_option("preview.png", "The image file to write.")
def preview(
    *,
    dataset: str,
    people: int,
    images: int,
    size: int,
    show_faces: bool,
    assignments: tuple[str, ...],
    output: Path,
) -> None:
    """Draw a grid: one private person per row, then public people. Faces of real people are hidden."""
    from mibench import registry
    from mibench import settings as config
    from mibench.data.preview import preview_png
    from mibench.settings import Layer
    from mibench.system.files import atomic_write

    from .progress import reporter

    settings = config.parse_assignments(assignments, ("dataset",))["dataset"]
    split, _ = config.resolve(registry.load("dataset", dataset), [Layer("--set", settings)], scope="dataset")
    reporter()  # it hears of the decoding
    atomic_write(
        output,
        preview_png(split, people=people, images=images, size=size, hide_faces=False if show_faces else None),
        sweep=True,
    )
    tell(str(output))


@data.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench data verify celeba
  mibench data verify celeba --root /data/celeba --full
  mibench data verify celeba --set dataset.lists=rebuilt
""",
)
@click.argument("dataset")
@click.option("--root", metavar="FOLDER", help="Folder of the data set.  [default: $MIBENCH_DATA/DATASET]")
@set_option("dataset")
@click.option("--full", is_flag=True, help="Decode every image.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context, *, dataset: str, root: str | None, assignments: tuple[str, ...], full: bool, as_json: bool
) -> None:
    """Report which files of a data set are present, missing, misplaced or corrupt, and how to fix it.

    Also checks whether its lists are the released ones, counts private and public identities and checks that they do
    not overlap. Exit code 2 if something is wrong.
    """
    from mibench import registry
    from mibench import settings as config
    from mibench.data.verify import verify as look
    from mibench.errors import MibenchError, printable

    from .progress import reporter

    settings = config.parse_assignments(assignments, ("dataset",))["dataset"]
    if root is not None and "root" in settings:
        raise MibenchError("--root and --set dataset.root set the same thing", cure="keep one of them")
    settings |= {} if root is None else {"root": root}
    findings = look(registry.load("dataset", dataset), settings, full=full, reporter=reporter())
    wrong = sum(finding.level == "wrong" for finding in findings)
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"dataset": dataset, "wrong": wrong, "findings": listed}, indent=2))
    else:
        for finding, after in zip(findings, [*findings[1:], None], strict=True):
            tell(f"{finding.level:5}  {printable(finding.what)}")
            if finding.cure and (after is None or after.cure != finding.cure):  # one cure for several lines: once
                tell(f"       -> {printable(finding.cure)}")
        tell(f"{dataset}: " + (f"{wrong} problem{'s' * (wrong > 1)}" if wrong else "no problems"))
    ctx.exit(BAD_INPUT if wrong else 0)
