"""One computation at a time in a process: what a run sets (torch's switches, the filters of warnings, the fonts of
figures, where stdout goes) belongs to all threads. A second thread waits; processes side by side need not.

In a forked child every lock is free that another thread of its parent held: that thread is not in the child.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mibench.errors import MibenchError
from mibench.system.progress import Reporter

POLL_SECONDS = 0.5  # seconds between two looks whether Ctrl-C was pressed: waiting without end is deaf on some systems


class ForkSafeLock:
    """A reentrant lock between threads that a forked child does not inherit from another thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None
        _locks.append(self)

    @contextmanager
    def acquired(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock; ``waiting`` is called before this thread has to wait for another."""
        lock = self._lock
        if not lock.acquire(blocking=False):
            waiting()
            while not lock.acquire(timeout=POLL_SECONDS):
                pass
        before, self._owner = self._owner, threading.get_ident()
        try:
            yield
        finally:
            self._owner = before
            lock.release()

    def after_fork(self) -> None:
        """Release it in a child, unless the thread that forked holds it."""
        if self._owner not in (None, threading.get_ident()):
            self._lock, self._owner = threading.RLock(), None


_locks: list[ForkSafeLock] = []
_computing = ForkSafeLock()
_forked = False  # this process is a copy of one that had loaded torch


def _after_fork() -> None:
    global _forked
    _forked = "torch" in sys.modules
    for lock in _locks:
        lock.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def computing(reporter: Reporter) -> Iterator[None]:
    """Compute alone in this process; torch's random numbers are afterwards where they were.

    Raises:
        MibenchError: torch cannot compute in this process.
    """
    import torch

    if _forked and torch.get_num_threads() > 1:
        raise MibenchError(
            "this process was forked from one that had loaded torch, whose threads are not in the copy: it "
            "might wait for them for ever",
            cure="start it with multiprocessing's 'spawn', or call torch.set_num_threads(1) in it first",
        )

    def say_waiting() -> None:
        reporter.say("another thread of this process is computing; this one begins when that has ended")

    with _computing.acquired(say_waiting):
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices):
            yield
