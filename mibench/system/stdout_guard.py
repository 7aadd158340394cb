"""Keeps what other people's code prints out of stdout, which programs read."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class _Aside:
    """Sends stdout to stderr, for Python and for what writes to the file descriptor (child processes, C code).

    Calls overlap where the program is used from several threads: the first one in turns it aside, the last one out
    puts it back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.streams: tuple[Any, Any, Any] = (None, None, None)
        self.descriptor: int | None = None

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside > 1:
                return
            self.streams = sys.stdout, sys.__stdout__, sys.stderr
            sys.stdout = sys.__stdout__ = sys.stderr  # type: ignore[misc,assignment]
            try:
                self.descriptor = os.dup(1)
                os.dup2(2, 1)
            except OSError:  # closed by whoever started the program: nothing written there is seen
                self._put_back()

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                sys.stdout, sys.__stdout__, sys.stderr = self.streams  # type: ignore[misc]
                self._put_back()

    def _put_back(self) -> None:
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.dup2(self.descriptor, 1)
            os.close(self.descriptor)
            self.descriptor = None


_aside = _Aside()


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Let nothing reach stdout, which programs read: what is printed meanwhile goes to stderr."""
    _aside.enter()
    try:
        yield
    finally:
        _aside.leave()


def intercept_os_exit() -> None:
    """Turn ``os._exit`` in this process into ``SystemExit``, which is reported: other people's code that calls it would
    end the program at once, without a word and with whatever exit code it names. Child processes keep theirs.
    """
    process, real = os.getpid(), os._exit

    def ended(status: int) -> NoReturn:
        if os.getpid() != process or threading.current_thread() is not threading.main_thread():
            real(status)
        raise SystemExit(status)

    os._exit = ended


def redirect_atexit_output() -> None:
    """For the end of a program whose output is complete: functions that other code registered for it may print."""
    # A stdout that cannot take what it still holds has to say so itself.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        _aside.enter()
