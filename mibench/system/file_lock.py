"""One process at a time: a lock that says who holds it. The system releases a dead process's, so none goes stale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from mibench.errors import MibenchError
from mibench.system.progress import Reporter, current_reporter


@contextmanager
def held(lock: Path, what: str, *, patience: float = 0, reporter: Reporter | None = None) -> Iterator[None]:
    """Hold ``lock`` for this process. Its number lies beside the lock meanwhile, for whoever comes second.

    Args:
        lock: the file that is locked; its folder exists, and it stays.
        what: busy message, to which the other process is added: ``runs/x is being written``.
        patience: seconds to wait for another process that holds it; -1: for as long as it takes.
        reporter: who hears that another process is waited for; None: the reporter of the command that runs.

    Raises:
        MibenchError: another process holds it; the line names it.
        OSError: the file cannot be made.
    """
    holder = lock.with_name(f"{lock.name}.pid")
    file_lock = filelock.FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout:
        busy = f"{what} by another process (pid {_number(holder)})"
        if patience:
            (reporter or current_reporter()).say(f"{busy}; waiting for it")
        try:
            file_lock.acquire(timeout=patience)
        except filelock.Timeout as error:
            raise MibenchError(f"{busy}", cure="wait for it or stop it first") from error
    try:
        with suppress(OSError):  # a full disk: the lock holds without it
            holder.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        file_lock.release()


def _number(holder: Path) -> str:
    """The process that holds a lock, ``unknown`` where it has not said so (yet)."""
    try:
        pid = holder.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return "unknown"
    return pid if pid.isdecimal() else "unknown"
