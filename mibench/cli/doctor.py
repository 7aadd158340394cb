"""``mibench doctor``."""

from __future__ import annotations

import json

import rich_click as click

from mibench.errors import printable
from mibench.system.stdout_guard import spoken_aside

from .examples import CommandWithExamples
from .options import json_option


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench doctor          versions, device, disk; every weights file verified by its hash
  mibench doctor --full   test accuracy of every classifier measured again and compared with its card
""",
)
@click.option("--full", is_flag=True, help="Measure every classifier's test accuracy again (minutes on a CPU).")
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, full: bool, as_json: bool) -> None:
    """Check versions, device, threads, memory, disk and weights.

    Exits with 1 when something is wrong.
    """
    from mibench.doctor import examine

    from .progress import reporter

    findings = spoken_aside()(examine)(full=full, reporter=reporter())
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red")
            click.echo(f"{mark}  {printable(f'{finding.name:{width}}  {finding.detail}')}")
    if not all(finding.ok for finding in findings):
        ctx.exit(1)
