"""``mibench report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import rich_click as click

from .examples import CommandWithExamples
from .options import json_option, set_option
from .prose import say

FACES = "Show faces of real people: private images, and reconstructions in full."


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench report runs/dmmia-vgg16-synthfaces-1f3a9c2e --output page.html
  mibench report runs/ --output attacks.html       attacks side by side
  mibench report runs/defences --by defence --output defences.html
  mibench report runs/NAME --output page.html --show-faces
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="page.html",
    show_default=True,
    metavar="FILE",
    help="The HTML file to write.",
)
@click.option(
    "--by",
    type=click.Choice(("attack", "defence")),
    help="Rows of several runs.  [default: defence where some target has one, else attack]",
)
@click.option("--show-faces", is_flag=True, help=FACES)
@set_option("dataset")
@json_option
def report(
    *,
    runs: tuple[Path, ...],
    output: Path,
    by: Literal["attack", "defence"] | None,
    show_faces: bool,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write one self-contained HTML page about a run, or about several side by side.

    RUN is a run directory or a folder of them. The page needs no network and can be forwarded as it is. Faces of real
    people are hidden: a reconstruction can show what somebody looks like as well as a photograph does.
    """
    from mibench.commands import report as write
    from mibench.settings import parse_assignments

    settings = parse_assignments(assignments, ("dataset",))
    file = write(runs, output, by=by, show_faces=show_faces, settings=settings)
    size = file.stat().st_size
    if as_json:
        click.echo(json.dumps({"file": str(file), "bytes": size}, indent=2))
        return
    say(f"written: {file} ({size / 1e6:.1f} MB)")
