"""``mibench doctor``."""

from __future__ import annotations

import json

import rich_click as click

from mibench.errors import printable
from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .options import json_option


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench doctor          versions, device, disk, hashes of all weights
  mibench doctor --full   re-measure every classifier's test accuracy and compare it with its card
""",
)
@click.option("--full", is_flag=True, help="Re-measure every classifier's test accuracy (minutes on a CPU).")
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, full: bool, as_json: bool) -> None:
    """Check versions, device, threads, memory, disk and weights.

    Exits with 1 if a check fails.
    """
    from mibench.doctor import examine

    from .progress import reporter

    findings = stdout_to_stderr()(examine)(full=full, reporter=reporter())
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red")
            click.echo(f"{mark}  {printable(f'{finding.name:{width}}  {finding.detail}')}")
    if not all(finding.ok for finding in findings):
        ctx.exit(1)
