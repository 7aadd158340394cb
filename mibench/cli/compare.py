"""``mibench compare``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import rich_click as click

from mibench.errors import MibenchError

from .examples import CommandWithExamples
from .options import json_option, output_option
from .prose import say, tell

FORMATS = ("text", "csv", "markdown", "latex")


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench compare runs/                            every finished run below the folder
  mibench compare runs/ --reference dmmia          DMMIA against each of the others
  mibench compare runs/ --reference floor          what each attack adds to its own floor
  mibench compare runs/A runs/B --metric acc1      one metric only: fewer tests to correct for
  mibench compare runs/ --output comparison        CSV, Markdown, LaTeX and a figure
  mibench compare runs/ --output out --paper       and figures for papers, one and two columns wide
  mibench compare runs/defences --by defence       utility and leakage of defences, against the undefended twin
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--reference", metavar="ROW", help="Test every row against this one only; floor: each against its own floor."
)
@click.option(
    "--by",
    type=click.Choice(("attack", "defence")),
    default="attack",
    show_default=True,
    help="Rows: attacks on each target, or defences under each attack, tested against their undefended twin.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Show and test only this metric; repeatable.")
@click.option("--mix", is_flag=True, help="Allow runs with different protocols, data or judges; no tests between them.")
@output_option(None, "Folder for tables and the figure: CSV, Markdown, LaTeX, PNG and SVG.")
@click.option(
    "--paper", is_flag=True, help="With --output: figures for papers as well, PDF and SVG, one and two columns wide."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Output format; csv prints the rows only.",
)
@json_option
def compare(
    *,
    runs: tuple[Path, ...],
    reference: str | None,
    by: Literal["attack", "defence"],
    metrics: tuple[str, ...],
    mix: bool,
    output: Path | None,
    paper: bool,
    kind: str,
    as_json: bool,
) -> None:
    """Put finished runs side by side: intervals, paired tests over identities, costs.

    RUN is a run directory or a folder of them. Runs that differ only in the seed form one row. The floors of the runs
    are shown as well.
    """
    from mibench.commands import compare as compare_runs

    if paper and output is None:
        raise MibenchError("--paper writes files", cure="name a folder for them with --output")
    comparison = compare_runs(runs, reference=reference, metrics=metrics, mix=mix, by=by)
    files = comparison.write(output, paper=paper) if output is not None else []
    if as_json:
        click.echo(json.dumps(comparison.as_plain() | {"files": [str(file) for file in files]}, indent=2))
        return
    width = max(80, shutil.get_terminal_size((110, 24)).columns)
    text = comparison.render(kind, width=width)
    if kind != "text":
        for line in text.rstrip("\n").split("\n"):
            tell(line)
        return
    for line in (*text.split("\n"), *(f"written: {file}" for file in files)):
        say(line)
