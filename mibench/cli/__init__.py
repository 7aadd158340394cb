"""The command line. One file per command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import atexit
import dataclasses
import json
import sys
import traceback
from typing import Any

import rich_click as click
from click.exceptions import Exit

from mibench.errors import MibenchError, MisfitError
from mibench.party_errors import parties_named, print_wanted_traceback
from mibench.system.canonical import plain
from mibench.system.openmp import wait_briefly
from mibench.system.stdout_guard import intercept_os_exit, redirect_atexit_output
from mibench.version import __version__

from .audit import audit
from .compare import compare
from .data import data
from .doctor import doctor
from .fetch import fetch
from .gate import gate
from .import_ import import_command
from .interrupts import INTERRUPTED, INTERRUPTED_MESSAGE, leave_at_once, listen
from .list import list_command
from .output import NO_ROOM, discard_stdout, disk_full_message, replace_unencodable
from .prose import say
from .report import report
from .run import run
from .score import score
from .show import show
from .sweep import sweep
from .train import train
from .verdicts import verdicts
from .view import view

BAD_INPUT = 2
BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_BROKEN_PIPE = (
    141  # what shells see of any program that writes to a pipe nobody reads; 1 would say that a metric is missing
)
JSON = "mibench.cli.json"  # key of a context's facts


class _Commands(click.RichGroup):
    """One ``error:`` line per cause for invalid input, a hint on Ctrl-C; bugs keep their traceback.

    With ``--json`` errors are JSON on stdout as well.
    """

    def main(self, *args: Any, **extra: Any) -> Any:  # as click types it
        """Run the program; the help of a group that is called without a command is printed out here."""
        try:
            try:
                return super().main(*args, **extra)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # what is still buffered fails here, not when the interpreter ends
        except OSError as error:
            code = _exit_code_unwritten(error)
            if code is None:
                raise
            sys.exit(code)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether ``--json`` is given, so that even parse errors are reported as JSON."""
        ctx.meta[JSON] = "--json" in args
        try:
            return super().parse_args(ctx, args)  # prints the help and the version of the program itself
        except OSError as error:
            _end_unwritten(ctx, error)
            raise

    def invoke(self, ctx: click.Context) -> object:
        try:
            with parties_named(passing=(click.ClickException, Exit)):
                return super().invoke(ctx)
        except MibenchError as error:
            print_wanted_traceback(error)
            misfit = dataclasses.asdict(error.misfit) if isinstance(error, MisfitError) else {}
            several = (
                {"problems": [dataclasses.asdict(one) for one in error.problems]} if len(error.problems) > 1 else {}
            )
            json_error(ctx, error.cause, BAD_INPUT, cure=error.cure, **several, **plain(misfit))
            for line in str(error).splitlines():
                say(f"error: {line}", err=True)
            ctx.exit(BAD_INPUT)
        except click.ClickException as error:
            json_error(ctx, error.format_message(), error.exit_code)
            raise
        except SystemExit as end:  # commands end by ctx.exit: this is other people's code, and 0 would read as success
            text = f"code that this command loaded ended the program (sys.exit({end.code!r}))"
            json_error(ctx, text, BAD_INPUT)
            say(f"error: {text}", err=True)
            ctx.exit(BAD_INPUT)
        except OSError as error:
            if error.filename is not None and error.errno in NO_ROOM:  # a file: stdout still takes something
                json_error(ctx, disk_full_message(error), BAD_INPUT)
            _end_unwritten(ctx, error)
            raise
        except KeyboardInterrupt:
            json_error(ctx, "interrupted", INTERRUPTED)
            click.echo(f"\n{INTERRUPTED_MESSAGE}", err=True)
            ctx.exit(INTERRUPTED)


def _exit_code_unwritten(error: OSError) -> int | None:
    """How the program ends whose output cannot be written, after it has said so; None: the error is another one."""
    if isinstance(error, BrokenPipeError):  # its reader has had enough, as `head` has: nobody to tell
        discard_stdout()
        return EXIT_BROKEN_PIPE
    if error.errno in NO_ROOM:
        discard_stdout()
        say(f"error: {disk_full_message(error)}", err=True)
        return BAD_INPUT
    return None


def _end_unwritten(ctx: click.Context, error: OSError) -> None:
    """End the program where its output cannot be written (click would end it with 1); return where the error is
    another one."""
    code = _exit_code_unwritten(error)
    if code is not None:
        ctx.exit(code)


def json_error(ctx: click.Context, cause: str, exit_code: int, *, cure: str | None = None, **details: object) -> None:
    """``{"error": {"cause": ..., "cure": ...}, "exit_code": ...}`` and ``details`` on stdout, where the command was to
    print JSON."""
    if ctx.meta.get(JSON):
        click.echo(json.dumps({"error": {"cause": cause, "cure": cure}, "exit_code": exit_code, **details}, indent=2))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mibench")
def cli() -> None:
    """Measure how much an image classifier leaks through model inversion attacks.

    Start with `mibench run`: it attacks a small classifier of procedural faces, needs no download and takes about a
    minute on two CPU cores.

    Exit codes: 0 success, 1 a required metric has no value, a cell of a sweep failed or a gate did, 2 invalid input,
    3 a gate is undecided, 70 a bug of mibench (with its traceback), 130 interrupted by Ctrl-C.
    """


for _command in (
    run,
    audit,
    sweep,
    gate,
    report,
    view,
    list_command,
    show,
    score,
    train,
    import_command,
    doctor,
    data,
    fetch,
    compare,
    verdicts,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the ``mibench`` program."""
    wait_briefly()  # before any command loads torch
    replace_unencodable()
    intercept_os_exit()
    listen()
    try:
        cli()
    except Exception:  # noqa: BLE001  (Python would end with 1, which reads as "leaks more" of a gate)
        traceback.print_exc()
        sys.exit(BUG)
    finally:
        leave_at_once()
        atexit.register(redirect_atexit_output)  # the last one in is the first to run
