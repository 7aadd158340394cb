"""A folder in which one process works at a time: a lock, a log, and no litter of a process that was killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mibench.system.file_lock import held
from mibench.system.files import remove_dead, write_error


@dataclass(frozen=True)
class WorkDirectory:
    """A folder that processes share in turn; writing happens inside :meth:`writing`."""

    path: Path

    @contextmanager
    def writing(self, patience: float = 0) -> Iterator[None]:
        """Hold the folder for this process (:func:`mibench.system.file_lock.held`).

        Args:
            patience: seconds to wait for another process that holds it.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path / ".lock", f"{self.path} is being written", patience=patience))
            except OSError as error:
                raise write_error(self.path, error) from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove temporary files that a killed process left."""
        for folder in (self.path, *(p for p in self.path.iterdir() if p.is_dir())):
            for leftover in folder.glob(".*.tmp"):
                remove_dead(leftover)  # an audit, say, writes here as well, and after its run

    @property
    def log_path(self) -> Path:
        """``log.jsonl``."""
        return self.path / "log.jsonl"

    def log(self, **record: object) -> None:
        """Append a record to ``log.jsonl``."""
        line = json.dumps({"time": round(time.time(), 3)} | record, default=str).encode() + b"\n"
        path = self.log_path
        try:
            with path.open("a+b") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    line = b"\n" + line  # a crash cut the last record off; keep it from spoiling this one
                file.write(line)
        except OSError as error:
            raise write_error(path, error) from error
