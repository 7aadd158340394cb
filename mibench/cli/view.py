"""``mibench view``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import rich_click as click

from .examples import CommandWithExamples
from .options import set_option
from .prose import say
from .report import FACES


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench view runs/
  mibench view runs/ --port 8000
""",
)
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="NUMBER",
    help="Port to listen on.  [default: a free one]",
)
@click.option("--show-faces", is_flag=True, help=FACES)
@set_option("dataset")
def view(*, folder: Path, port: int, show_faces: bool, assignments: tuple[str, ...]) -> None:
    """Serve the pages of a folder of runs to a browser on this machine, until Ctrl-C.

    Listens on the loopback address only and changes nothing.
    """
    from mibench.commands import view as serve
    from mibench.settings import parse_assignments

    chosen = parse_assignments(assignments, ("dataset",))
    served = serve(folder, port=port, show_faces=show_faces, settings=chosen)
    with served, suppress(KeyboardInterrupt):  # Ctrl-C is the one way to end it, and no failure
        say(f"{served.url}  (Ctrl-C ends it)")
        served.serve_forever()
