"""``mibench verdicts``: panels for people or multimodal models, and their answers."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from .examples import CommandWithExamples
from .format import text_columns
from .options import json_option, output_option, set_option
from .prose import say
from .report import FACES


@click.group()
def verdicts() -> None:
    """Have people or multimodal models say whom reconstructions show, blindly; no service is called."""


@verdicts.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench verdicts export runs/ppa-vgg16-synthfaces-1f3a9c2e --output panels
  mibench verdicts export runs/NAME --people 20 --per-person 1 --output panels
  mibench verdicts export runs/NAME --set dataset.root=faces --show-faces --output panels
""",
)
@click.argument("run", type=click.Path(path_type=Path))
@output_option("panels", "An empty folder for the panels, which may be handed out.")
@click.option("--people", type=click.IntRange(1), metavar="NUMBER", help="Attacked people.  [default: all]")
@click.option(
    "--per-person",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    metavar="NUMBER",
    help="Panels of each kind and person.",
)
@click.option(
    "--references",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    metavar="NUMBER",
    help="Real images of the person on a panel.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the choice.")
@click.option("--show-faces", is_flag=True, help=FACES)
@set_option("dataset")
@json_option
def export(
    *,
    run: Path,
    output: Path,
    people: int | None,
    per_person: int,
    references: int,
    seed: int,
    show_faces: bool,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write panels: real images of a person beside a reconstruction or a control, shuffled, without a hint which.

    The key stays in the run. Panels show real images of the people, so photographs need --show-faces.
    """
    from mibench.commands import export_verdicts
    from mibench.settings import parse_assignments

    count = export_verdicts(
        run,
        output,
        people=people,
        per_person=per_person,
        references=references,
        seed=seed,
        show_faces=show_faces,
        settings=parse_assignments(assignments, ("dataset",)),
    )
    if as_json:
        click.echo(json.dumps({"folder": str(output), "panels": count}, indent=2))
        return
    say(f"written: {count:,} panels and answers.csv in {output}; the key is in {run / 'verdicts'}")
    say(f"then: mibench verdicts import {run} {output / 'answers.csv'}")


@verdicts.command(
    "import",
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench verdicts import runs/ppa-vgg16-synthfaces-1f3a9c2e panels/answers.csv
  mibench verdicts import runs/NAME answers-of-a-model.csv --json
""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("answers", type=click.Path(path_type=Path))
@json_option
def import_(*, run: Path, answers: Path, as_json: bool) -> None:
    """Count answers (yes, no, refused) to exported panels: error rates with intervals beside the judge's."""
    from mibench.commands import import_verdicts

    counted = import_verdicts(run, answers)
    if as_json:
        click.echo(json.dumps(counted.as_json(), indent=2))
        return
    for line in text_columns(counted.rows()):
        click.echo(line)
    click.echo()
    raters = f"{counted.raters} rater{'s' if counted.raters > 1 else ''}"
    say(f"{counted.answered:,} of {counted.panels:,} panels answered by {raters}; 95 % intervals over people")
