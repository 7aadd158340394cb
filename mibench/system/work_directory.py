"""A folder in which one process works at a time: a lock, a log, and no litter of a process that was killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from mibench.errors import MibenchError
from mibench.system.files import write_error


@dataclass(frozen=True)
class WorkDirectory:
    """A folder that processes share in turn; writing happens inside :meth:`writing`."""

    path: Path

    def holder(self) -> str:
        """The process that writes here, for a message."""
        return "unknown"

    @contextmanager
    def writing(self, patience: float = 0) -> Iterator[None]:
        """Hold the folder for this process. A dead process's lock is released by the system, so none goes stale.

        Args:
            patience: seconds to wait for another process that holds it.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=patience)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            raise MibenchError(
                f"{self.path} is being written by another process (pid {self.holder()}); wait for it or stop it first"
            ) from error
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove temporary files that a killed process left."""
        for folder in (self.path, *(p for p in self.path.iterdir() if p.is_dir())):
            for leftover in folder.glob(".*.tmp"):
                with suppress(OSError):
                    leftover.unlink()

    def log(self, **record: Any) -> None:
        """Append a record to ``log.jsonl``."""
        line = json.dumps({"time": round(time.time(), 3)} | record, default=str).encode() + b"\n"
        path = self.path / "log.jsonl"
        try:
            with path.open("a+b") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    line = b"\n" + line  # a crash cut the last record off; keep it from spoiling this one
                file.write(line)
        except OSError as error:
            raise write_error(path, error) from error
