"""Ctrl-C while somebody else's code does not come back: it is heard at once, said, and a second one ends the program.

Python raises KeyboardInterrupt when the code that runs returns to it: a model in TorchScript or ONNX may compute for
hours, one that catches everything goes on. Everything is stored whole or not at all, so ending anywhere loses nothing
that was finished.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

INTERRUPTED = 130  # what shells expect of a program that was stopped by Ctrl-C
WORDS = "interrupted: everything finished is kept, continue with the same command"
STOPPING = "stopping as soon as the code that runs comes back; Ctrl-C once more ends at once, what is finished is kept"
PATIENCE = 3.0  # seconds that stopping in order may take before a word is said about it


def listen() -> None:
    """Attend to Ctrl-C from now on, in a thread of its own. Called in the main thread of a program."""
    heard, rung = socket.socketpair()
    rung.setblocking(False)
    signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=attend, args=(heard, rung), daemon=True, name="interrupts").start()


def attend(heard: socket.socket, rung: socket.socket, leave: Callable[[int], object] = os._exit) -> None:
    """Read the numbers of signals that come in; ``rung`` is held so that it stays open."""
    said = False
    while numbers := heard.recv(64):
        for _ in range(numbers.count(signal.SIGINT)):
            if said:
                _write(WORDS)
                leave(INTERRUPTED)
                return
            threading.Event().wait(PATIENCE)  # most often the program has ended by then
            _write(STOPPING)
            said = True
    rung.close()


def _write(text: str) -> None:
    with suppress(OSError):  # past Python's stream, which the code that hangs may hold
        os.write(2, f"\n{text}\n".encode())
