"""The command line. One file per command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import atexit
from typing import Any

import rich_click as click

from mibench import __version__
from mibench.aside import last_words_aside
from mibench.errors import MibenchError
from mibench.waiting import wait_briefly

from .audit import audit
from .compare import compare
from .data import data
from .doctor import doctor
from .fetch import fetch
from .import_ import import_command
from .list import list_command
from .output import NO_ROOM, any_code_page, let_go, no_room
from .run import run
from .score import score
from .show import show
from .sweep import sweep
from .train import train

BAD_INPUT = 2
INTERRUPTED = 130  # what shells expect of a program that was stopped by Ctrl-C


class _Commands(click.RichGroup):
    """One ``error:`` line per cause for a user's mistakes, a word of comfort on Ctrl-C; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MibenchError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(BAD_INPUT)
        except SystemExit as end:  # commands end by ctx.exit: this is other people's code, and 0 would read as success
            click.echo(f"error: code that this command loaded ended the program (sys.exit({end.code!r}))", err=True)
            ctx.exit(BAD_INPUT)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            let_go()
            click.echo(f"error: {no_room(error)}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("\ninterrupted: everything finished is kept, continue with the same command", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mibench")
def cli() -> None:
    """Audit what an image classifier gives away to model inversion.

    Start with `mibench run`: it attacks a small classifier of procedural faces, needs no download and takes about two
    minutes on two CPU cores.

    Exit codes: 0 fine, 1 a demanded metric has no value or a cell of a sweep failed, 2 a mistake in the input,
    130 stopped by Ctrl-C.
    """


for _command in (run, audit, sweep, list_command, show, score, train, import_command, doctor, data, fetch, compare):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the ``mibench`` program."""
    wait_briefly()  # before any command loads torch
    any_code_page()
    try:
        cli()
    finally:
        atexit.register(last_words_aside)  # the last one in is the first to run
