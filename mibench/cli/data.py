"""``mibench data``: looking at data sets."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from .data_fixture import fixture
from .examples import CommandWithExamples
from .options import output_option, set_option


@click.group()
def data() -> None:
    """Look at data sets."""


data.add_command(fixture)


@data.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench data preview
  mibench data preview synthfaces --set dataset.nuisance=0.5 --output easy.png
""",
)
@click.argument("dataset", default="synthfaces")
@click.option("--people", type=click.IntRange(1, 64), default=8, show_default=True, help="Private people, one a row.")
@click.option("--images", type=click.IntRange(1, 32), default=10, show_default=True, help="Images a row.")
@click.option("--size", type=click.IntRange(16, 256), default=64, show_default=True, help="Pixels a side.")
@set_option("dataset")
@output_option("preview.png", "The picture to write.")
def preview(*, dataset: str, people: int, images: int, size: int, assignments: tuple[str, ...], output: Path) -> None:
    """Draw a grid: one private person a row, then public people."""
    from mibench import config, registry
    from mibench.config import Layer
    from mibench.previews import preview_png
    from mibench.store import atomic_write

    settings = config.parse_assignments(assignments, ("dataset",))["dataset"]
    split, _ = config.resolve(registry.load("dataset", dataset), [Layer("--set", settings)], scope="dataset")
    atomic_write(output, preview_png(split, people=people, images=images, size=size))
    click.echo(str(output))
