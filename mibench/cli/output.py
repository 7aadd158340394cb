"""What becomes of output that the terminal, the pipe or the file behind it does not take."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def on_terminal(stream: object) -> bool:
    """Whether a person watches; nobody does where there is no stream, or one that can only write
    (pythonw, notebooks, services)."""
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty())


def replace_unencodable() -> None:
    """Print another character in the place of one that the terminal's code page lacks; a table stays a table."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # absent where something else took the place of stdout
    if reconfigure is not None:
        reconfigure(errors="replace")


def disk_full_message(error: OSError) -> str:
    """The one line for a device that takes no more."""
    filename = error.filename if error.filename is not None else "the output"
    return (
        f"cannot write {filename}: {error.strerror}; make room (everything finished is kept, "
        "the same command continues)"
    )


def discard_stdout() -> None:
    """Discard what stdout still holds: Python would try to write it once more on its way out, and fail again."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or no file at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
