"""``mibench score``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .options import device_option, json_option, plugin_option


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench score runs/dmmia-vgg16-synthfaces-1f3a9c2e
  mibench score runs/dmmia-vgg16-synthfaces-1f3a9c2e --json
  mibench score runs/dmmia-vgg16-synthfaces-1f3a9c2e --metric gradients
""",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Measure this group of metrics as well, and from now on; repeatable.",
)
@click.option("--show-faces", is_flag=True, help="Draw faces of real people, which are otherwise mosaics.")
@device_option
@plugin_option
@json_option
@click.pass_context
def score(
    ctx: click.Context, *, path: Path, metrics: tuple[str, ...], show_faces: bool, device: str, as_json: bool
) -> None:
    """Judge a stored run again and rewrite its reports, without attacking again."""
    from mibench.commands import score as score_run

    from .progress import reporter
    from .run import finish

    scored = stdout_to_stderr()(score_run)(
        path, metrics=metrics, show_faces=show_faces, device=device, reporter=reporter()
    )
    finish(ctx, scored, as_json)
