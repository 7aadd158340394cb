"""Ctrl-C: the first one winds the command up in order, a second one ends the program at once.

Python raises KeyboardInterrupt when the code that runs returns to it: a model in TorchScript or ONNX may compute for
hours, one that catches everything goes on. So a thread reads the signals as well. Everything is stored whole or not at
all, so ending anywhere loses nothing that was finished.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130  # what shells expect of a program that was stopped by Ctrl-C
INTERRUPTED_MESSAGE = "interrupted: everything finished is kept; repeat the command to continue"
STOPPING = "stopping as soon as the code that runs comes back; Ctrl-C once more ends at once, what is finished is kept"
PATIENCE = 3.0  # seconds that an orderly stop may take before a message says so


_leave = os._exit  # the system's own: the guard around other people's code takes its place later


class _CtrlC:
    """What SIGINT does in the main thread, where Python gets to it."""

    def __init__(self) -> None:
        self.at_once = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.at_once:
            self.at_once = True
            raise KeyboardInterrupt
        # Whatever is unwound just now would show a traceback, or would not end. Files bear an end at any moment.
        _end(_leave)


_ctrl_c = _CtrlC()
_ending = threading.RLock()  # one more Ctrl-C may come while the main thread holds it
_interrupted = threading.Event()


def listen() -> None:
    """Attend to Ctrl-C from now on. A program that ignores it, as in a shell's background, goes on ignoring it."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        return
    _ctrl_c.at_once = False
    signal.signal(signal.SIGINT, _ctrl_c)
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    threading.Thread(target=watch_signals, args=(read_fd,), daemon=True, name="interrupts").start()


def leave_at_once() -> None:
    """The command is over: from here on the first Ctrl-C ends the program, without a traceback of Python's own end."""
    _ctrl_c.at_once = True


def watch_signals(read_fd: int, leave: Callable[[int], object] = _leave) -> None:
    """Read the numbers of signals from a pipe: the second SIGINT ends the program, wherever its main thread is."""
    stopped = threading.Event()
    count = 0
    while numbers := os.read(read_fd, 64):
        for _ in range(numbers.count(signal.SIGINT)):
            count += 1
            if count > 1:
                stopped.set()
                _end(leave)
                return
            threading.Thread(target=_say_later, args=(stopped,), daemon=True, name="interrupts, words").start()


def _say_later(stopped: threading.Event) -> None:
    if not stopped.wait(PATIENCE):  # most often the program has ended by then
        _write(STOPPING)


def _end(leave: Callable[[int], object]) -> None:
    with _ending:  # the main thread and the one that reads may both get here: who comes second waits for the words
        if not _interrupted.is_set():
            _interrupted.set()
            _write(INTERRUPTED_MESSAGE)
    leave(INTERRUPTED)


def _write(text: str) -> None:
    with suppress(OSError):  # past Python's stream, which the code that hangs may hold
        os.write(2, f"\n{text}\n".encode())
