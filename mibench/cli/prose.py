"""Sentences for people: wrapped between words on a terminal, left as they are in files and pipes."""

from __future__ import annotations

import shutil
import sys
import textwrap

import rich_click as click

from mibench.errors import printable

from .output import on_terminal

LEAST = 40  # columns; below, wrapping helps nobody


def say(line: str, *, err: bool = False, hang: int = 0) -> None:
    """Print a line; on a terminal, one that is too long goes on below, indented as it began and by ``hang`` more.

    Names of files, people and runs may be part of it: what is no plain character is escaped.
    """
    line = printable(line)
    if not on_terminal(sys.stderr if err else sys.stdout):
        click.echo(line, err=err)
        return
    for part in wrapped(line, shutil.get_terminal_size().columns, hang):
        click.echo(part, err=err)


def tell(line: str, *, title: bool = False) -> None:
    """Print a line and leave it whole, as commands and rows of tables are to stay; escaped as by :func:`say`."""
    click.echo(click.style(printable(line), bold=True) if title else printable(line))


def wrapped(line: str, width: int, hang: int = 0) -> list[str]:
    """A line as lines of at most ``width`` letters, broken between words; a word that is longer stays whole.

    Rows of tables and lines that fit stay as they are.
    """
    if len(line) <= max(width, LEAST) or line.lstrip().startswith("|"):
        return [line]
    text = line.lstrip()
    indent = " " * (len(line) - len(text))
    later = indent + " " * (hang or (2 if text.startswith(("- ", "error: ")) else 0))
    return textwrap.wrap(
        text,
        max(width, LEAST),
        initial_indent=indent,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
