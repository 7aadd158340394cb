"""Commands whose help ends in examples that keep their lines (the styled help joins lines of an epilog)."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import rich_click as click

INDENT = " "  # of the whole epilog
_EXAMPLE = re.compile(r"(?P<indent> +)(?P<command>mibench .*?)(?:  +(?P<comment>\S.*))?")


class CommandWithExamples(click.RichCommand):
    """A command that prints its epilog as it was written."""

    def format_epilog(self, ctx: click.Context, formatter: Any) -> None:
        """Write the epilog, each line as it stands; what is too wide for the terminal is broken so that it works."""
        from rich.text import Text

        if self.epilog:
            lines = [line for line in inspect.cleandoc(self.epilog).splitlines() if line != "\b"]
            width = formatter.console.width - len(INDENT)
            text = "\n".join(f"{INDENT}{line}".rstrip() for line in fitted(lines, width))
            formatter.write(Text(f"{text}\n", no_wrap=True, overflow="ignore"))


def fitted(lines: list[str], width: int) -> list[str]:
    """Lines of examples and prose in at most ``width`` letters.

    Where an example with its comment is wider, every comment goes above its command. A command that is still wider
    goes on below after a backslash, so that what is copied runs. Prose is broken between words.
    """
    examples = [_EXAMPLE.fullmatch(line) for line in lines]
    above = any(match and match["comment"] and len(match[0]) > width for match in examples)
    wrapped: list[str] = []
    for line, match in zip(lines, examples, strict=True):
        if match is None:
            wrapped += textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
        elif above and match["comment"]:
            wrapped += [f"{match['indent']}# {match['comment']}", *_command(match["indent"], match["command"], width)]
        elif match["comment"]:
            wrapped.append(line)
        else:
            wrapped += _command(match["indent"], match["command"], width)
    return wrapped


def _command(indent: str, command: str, width: int) -> list[str]:
    """A command in lines that end in a backslash, broken before options where that is possible."""
    if len(indent) + len(command) <= width:
        return [indent + command]
    words = re.split(r" (?=-)", command)
    lines, inner = [indent + words[0]], f"{indent}  "
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) + 2 <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(inner + word)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
