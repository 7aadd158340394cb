"""``mibench data fixture``: a synthetic stand-in in the format of a real data set."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from .examples import CommandWithExamples
from .options import json_option
from .progress import reporter
from .prose import tell


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench data fixture celeba --output fixtures/celeba
  mibench data fixture stanford_dogs --people 4 --images 10 --output fixtures/dogs

Names: celeba, celeba1000, ffhq, metfaces, afhq, facescrub, stanford_dogs, folder
""",
)
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder to write to; must be empty or absent."
)
@click.option(
    "--people", type=click.IntRange(1, 3000), help="Number of private people, or of all people in a public data set."
)
@click.option("--images", type=click.IntRange(1, 1000), help="Images per person (approximately).")
@click.option("--size", type=click.IntRange(32, 1024), help="Side in pixels, if the format does not fix it.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed; another seed gives other people."
)
@json_option
def fixture(
    *, name: str, output: Path, people: int | None, images: int | None, size: int | None, seed: int, as_json: bool
) -> None:
    """Write procedural faces in the folders, lists and formats of a real data set.

    Everything that needs the data set runs on it, but results are not comparable with any on real images.
    """
    from mibench.data.fixtures.writer import write_fixture

    written = write_fixture(name, output, people=people, images=images, size=size, seed=seed, reporter=reporter())
    if as_json:
        record = {
            "name": written.name,
            "path": str(written.path),
            "fixture": True,
            "files": written.files,
            "bytes": written.bytes,
            "facts": written.facts,
            "settings": written.settings,
            "next": written.next_commands(),
        }
        click.echo(json.dumps(record, indent=2))
        return
    files = ", ".join(f"{count:,} {kind}" for kind, count in written.files.items())
    tell(f"{written.path}: a fixture in the format of {written.name}, {files}, {written.bytes / 1e6:.1f} MB")
    tell("  " + ", ".join(f"{value:,} {what}" for what, value in written.facts.items()))
    tell("next:")
    for command in written.next_commands():
        tell(f"  {command}")
