"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.errors import MibenchError
from mibench.system.text_files import read_json as read_json

if TYPE_CHECKING:
    pass


def write_error(path: Path, error: OSError) -> MibenchError:
    """The one line a person gets when a file cannot be written."""
    reason = error.strerror or str(error)
    return MibenchError(
        f"cannot write {path}: {reason}; make room or choose another folder with --output "
        "(everything finished is kept, the same command continues)"
    )


def atomic_write(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: temporary file beside it, fsync, rename. A crash leaves the old or the new file.

    Raises:
        MibenchError: the folder is not writable or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise write_error(path, error) from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, indented, no NaN (a number that is none is null by our own rule)."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write(path, (text + "\n").encode())


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
