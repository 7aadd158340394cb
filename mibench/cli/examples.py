"""Commands whose help ends in examples that keep their lines (the styled help joins lines of an epilog)."""

from __future__ import annotations

import inspect
from typing import Any

import rich_click as click


class CommandWithExamples(click.RichCommand):
    """A command that prints its epilog as it was written."""

    def format_epilog(self, ctx: click.Context, formatter: Any) -> None:
        """Write the epilog, each line as it stands, two columns in."""
        from rich.text import Text

        if self.epilog:
            lines = [line for line in inspect.cleandoc(self.epilog).splitlines() if line != "\b"]
            formatter.write(Text("\n".join(f" {line}".rstrip() for line in lines) + "\n"))
