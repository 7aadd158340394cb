"""A download in progress: ``NAME.part`` with what has come, ``NAME.part.json`` with what it is a part of."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from mibench.errors import MibenchError
from mibench.system.canonical import JsonObject
from mibench.system.files import write_json

CHUNK = 1 << 18  # bytes read and written at a time


def cannot_write(path: Path, error: OSError) -> MibenchError:
    """The one line for a disk that is full or a folder that may not be written."""
    return MibenchError(
        f"cannot write {path}: {error.strerror or error}",
        cure="make room or choose another folder with --to (what has come is kept, the same command continues)",
    )


class PartialFile:
    """Bytes that have come so far, hashed as they come. Use it as a context; the file stays when it ends.

    The memo beside it names the address and the server's mark of the version (an entity tag or a date): a part
    of one version is never continued with bytes of another.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.memo_path = target.with_name(f"{target.name}.part.json")
        self.size = 0
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> PartialFile:
        try:
            if self.path.is_file():
                with self.path.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        self._digest.update(chunk)
                        self.size += len(chunk)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk was reported by the write that failed
                self._file.close()
            self._file = None

    @property
    def sha256(self) -> str:
        """SHA-256 of what has come so far."""
        return self._digest.hexdigest()

    def memo(self) -> JsonObject:
        """What the part is a part of; {} when nothing is known, as after a damaged memo."""
        try:
            content = json.loads(self.memo_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def describe(self, **memo: object) -> None:
        """Write the memo, before the first byte it describes."""
        if dict(self.memo()) != memo:
            write_json(self.memo_path, memo)

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            MibenchError: the disk is full or the folder may not be written.
        """
        try:
            if self._file is None:
                self._file = self.path.open("ab")
            self._file.write(chunk)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget everything that has come."""
        self.__exit__()
        for path in (self.path, self.memo_path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error
        self.size = 0
        self._digest = hashlib.sha256()

    def finish(self, target: Path) -> None:
        """Sync, give the file its name in one step, and drop the memo."""
        try:
            if self._file is None:
                self._file = self.path.open("ab")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.__exit__()
            self.path.replace(target)
            self.memo_path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(target, error) from error
