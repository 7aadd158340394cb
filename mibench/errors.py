"""The one exception a user's mistake raises. It lives apart from the contract so that naming it costs no torch."""

from __future__ import annotations


class MibenchError(Exception):
    """A mistake in the input. One line: the cause and the cure. The command line prints it and exits with 2."""
