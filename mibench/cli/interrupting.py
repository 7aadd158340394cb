"""Ctrl-C: the first one winds the command up in order, a second one ends the program at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

INTERRUPTED = 130  # what shells expect of a program that was stopped by Ctrl-C
COMFORT = "interrupted: everything finished is kept, continue with the same command"


class _CtrlC:
    """What SIGINT does."""

    def __init__(self) -> None:
        self.at_once = False

    def __call__(self, number: int, frame: Any) -> None:
        if not self.at_once:
            self.at_once = True
            raise KeyboardInterrupt
        # Whatever is unwound just now would show a traceback, or would not end. Files bear an end at any moment.
        with suppress(OSError):
            os.write(2, f"\n{COMFORT}\n".encode())
        os._exit(INTERRUPTED)


_ctrl_c = _CtrlC()


def listen() -> None:
    """Have a second Ctrl-C end the program at once. One that ignores Ctrl-C, as in a shell's background, goes on so."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual and threading.current_thread() is threading.main_thread():
        _ctrl_c.at_once = False
        signal.signal(signal.SIGINT, _ctrl_c)


def leave_at_once() -> None:
    """The command is over: from here on the first Ctrl-C ends the program, without a traceback of Python's own end."""
    _ctrl_c.at_once = True
