"""``mibench gate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from mibench.errors import MibenchError
from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .options import device_option, output_option, plugin_option, set_option
from .prose import say, tell

if TYPE_CHECKING:
    from mibench.results import PrintableGate

POINTS = 100  # margins and bounds of shares are given in points
STDOUT = "-"


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench gate --update-baseline --baseline leak.json --target vgg16 --attack ppa
  mibench gate --baseline leak.json --target vgg16+new
  mibench gate --baseline leak.json --target vgg16+new --max-increase 10 --min-accuracy 0.95
  mibench gate --baseline leak.json runs/ppa-vgg16+new-synthfaces-81c8e752
  mibench gate --baseline leak-1.json --baseline leak-2.json --baseline leak-3.json --target vgg16+new
  mibench gate --baseline runs/old runs/new --max-increase acc1=5 --max-increase true_identity_error=0.01
  mibench gate --baseline leak.json --target vgg16+new --json gate.json --junit gate.xml --markdown gate.md
""",
)
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    "baselines",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File of --update-baseline to compare with, or finished runs; of several, the leakiest counts.",
)
@click.option("--target", metavar="NAME", help="Attack this target as the baseline was, unless that is done already.")
@click.option("--update-baseline", is_flag=True, help="Write the baseline of the target or runs instead of comparing.")
@click.option(
    "--attack", "attacks", multiple=True, metavar="NAME", help="Only these attacks; repeatable.  [default: all]"
)
@click.option(
    "--max-increase",
    "increases",
    multiple=True,
    metavar="[METRIC=]NUMBER",
    help="How much more may leak, in points of a share or in the metric's unit; repeatable.  [default: acc1=5]",
)
@click.option("--min-accuracy", type=float, metavar="SHARE", help="Minimum test accuracy of the target, from 0 to 1.")
@click.option("--max-drop", type=float, metavar="POINTS", help="How far its accuracy may lie below the baseline's.")
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, metavar="SHARE", help="Of the one-sided tests."
)
@click.option("--protocol", metavar="NAME", help="With --update-baseline.  [default: gate]")
@click.option("--dataset", metavar="NAME", help="With --update-baseline.  [default: synthfaces]")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    help="With --update-baseline; repeatable.  [default: 0]",
)
@set_option("attack, dataset, prior, protocol")
@output_option("runs", "Folder of run directories.")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value=STDOUT,
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="[FILE]",
    help="Print JSON, or write it to a file.",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Append a summary in Markdown.")
@device_option
@click.option("--allow-changed-code", is_flag=True, help="Resume runs although the code has changed since.")
@plugin_option
@click.pass_context
def gate(
    ctx: click.Context,
    *,
    runs: tuple[Path, ...],
    baselines: tuple[Path, ...],
    target: str | None,
    update_baseline: bool,
    attacks: tuple[str, ...],
    increases: tuple[str, ...],
    min_accuracy: float | None,
    max_drop: float | None,
    confidence: float,
    protocol: str | None,
    dataset: str | None,
    seeds: tuple[int, ...],
    assignments: tuple[str, ...],
    output: Path,
    json_file: Path | None,
    junit: Path | None,
    markdown: Path | None,
    device: str,
    allow_changed_code: bool,
) -> None:
    """Fail when a classifier leaks more than its baseline.

    Compares with a baseline file, identity by identity: does the attack get out more than is allowed? Exit codes: 0 it
    does not, 1 it does or accuracy is too low, 2 invalid input, 3 undecided.
    """
    from mibench.commands import gate as decide
    from mibench.commands import update_baseline as make
    from mibench.runs.request import SCOPES
    from mibench.settings import parse_assignments
    from mibench.system.files import check_writable

    from .progress import reporter

    for name, share in (("--min-accuracy", min_accuracy), ("--confidence", confidence)):
        if share is not None and not 0 <= share <= 1:
            raise MibenchError(f"{name} is a share from 0 to 1, got {share:g}", cure=f"write {share / POINTS:g}")
    if max_drop is not None and not 0 <= max_drop <= POINTS:
        raise MibenchError(f"--max-drop is in points, from 0 to 100, got {max_drop:g}")
    files = [file for file in (json_file, junit, markdown) if file is not None and str(file) != STDOUT]
    check_writable(*(file.parent for file in files))  # before an attack that takes minutes
    settings = parse_assignments(assignments, SCOPES)
    if update_baseline:
        if len(baselines) > 1:
            raise MibenchError(
                f"--update-baseline writes one file, got {len(baselines)}", cure="make one baseline after the other"
            )
        file = stdout_to_stderr()(make)(
            baselines[0],
            target,
            runs=runs,
            attacks=attacks,
            dataset=dataset,
            protocol=protocol,
            seeds=seeds or (0,),
            settings=settings,
            out=output,
            device=device,
            allow_changed_code=allow_changed_code,
            reporter=reporter(),
        )
        if json_file is not None:
            _write(json_file, json.dumps({"baseline": str(file)}, indent=2) + "\n")
        else:
            say(f"written: {file}; commit it, and compare with mibench gate --baseline {file} --target NAME")
        return
    only = {"--protocol": protocol, "--dataset": dataset, "--seed": seeds}
    for option, value in only.items():
        if value:
            raise MibenchError(
                f"{option} belongs to --update-baseline", cure="the baseline says how to attack: leave it out"
            )
    margins = margins_of(increases)
    result = stdout_to_stderr()(decide)(
        runs,
        baseline=baselines,
        target=target,
        attacks=attacks,
        max_increase=margins,
        min_accuracy=min_accuracy,
        max_drop=None if max_drop is None else max_drop / POINTS,
        confidence=confidence,
        settings=settings,
        out=output,
        device=device,
        allow_changed_code=allow_changed_code,
        reporter=reporter(),
    )
    _print(result, json_file, junit, markdown)
    ctx.exit(result.exit_code)


def margins_of(increases: tuple[str, ...]) -> dict[str, float]:
    """``5`` or ``acc1=5`` as metric -> allowed increase; points of a share become a share, of any metric installed.

    Raises:
        MibenchError: no number, or a metric twice.
    """
    from mibench import registry
    from mibench.metrics import METRICS
    from mibench.metrics.declared import declared_infos

    infos = {info.name: info for info in declared_infos(dict.fromkeys([*METRICS, *registry.names("metric")]))}
    margins: dict[str, float] = {}
    for text in increases:
        metric, _, number = text.rpartition("=")
        metric = metric.strip() or "acc1"
        try:
            value = float(number)
        except ValueError:
            raise MibenchError(
                f"--max-increase {text!r}: {number!r} is no number", cure="write 5 or true_identity_error=0.01"
            ) from None
        if metric in margins:
            raise MibenchError(f"--max-increase names {metric} twice", cure="give one")
        percent = metric in infos and infos[metric].percent
        margins[metric] = value / POINTS if percent else value
    return margins


def _print(result: PrintableGate, json_file: Path | None, junit: Path | None, markdown: Path | None) -> None:
    """The verdict on the terminal, and the files that were asked for."""
    if json_file is not None:
        _write(json_file, result.render("json"))
    if junit is not None:
        _write(junit, result.render("junit"))
    if markdown is not None:  # the summary file of a job is shared between its steps
        before = markdown.read_text(encoding="utf-8") if markdown.is_file() else ""
        _write(markdown, before + result.render("markdown"))
    if json_file is None or str(json_file) != STDOUT:
        for line in result.render("text").rstrip("\n").split("\n"):
            tell(line)


def _write(file: Path, text: str) -> None:
    from mibench.system.files import atomic_write

    if str(file) == STDOUT:
        click.echo(text, nl=False)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, text.encode())
