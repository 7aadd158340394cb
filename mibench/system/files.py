"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from mibench.errors import MibenchError
from mibench.system.text_files import read_json as read_json

if sys.platform != "win32":
    import fcntl


def write_error(path: Path, error: OSError) -> MibenchError:
    """The one line a person gets when a file cannot be written."""
    reason = error.strerror or str(error)
    return MibenchError(
        f"cannot write {path}: {reason}",
        cure=(
            "make room or choose another folder with --output (everything finished is kept, the same command continues)"
        ),
    )


def check_writable(*folders: Path) -> None:
    """Refuse folders that cannot be written, before work begins whose result would have no place. Leaves no trace.

    Args:
        folders: they need not be there yet: the nearest one above that is there must take new files.

    Raises:
        MibenchError: a file is in the way, or the folder or its disk takes no files.
    """
    for folder in folders:
        try:
            existing = next(above for above in (folder, *folder.absolute().parents) if os.path.lexists(above))
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise write_error(folder, error) from error


def atomic_write(path: Path, content: bytes, *, sweep: bool = False) -> None:
    """Replace ``path`` by ``content``: temporary file beside it, fsync, rename. A crash leaves the old or the new file.

    Args:
        path: the file.
        content: all of it.
        sweep: first remove what killed processes left of it; a run directory is swept as a whole instead.

    Raises:
        MibenchError: the folder is not writable or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sweep:
            _sweep_leftovers(path)
        with temporary.open("wb") as file:
            _vouch_for(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # while the lock vouches for it; there an open file cannot be renamed
                temporary.replace(path)
        if sys.platform == "win32":
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:  # an error or Ctrl-C leaves it, and nobody would ever remove it
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _vouch_for(file: IO[bytes]) -> None:
    """Lock a temporary file while its writer lives."""
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sweep_leftovers(path: Path) -> None:
    """Remove temporary files of ``path`` whose writers are dead."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        remove_dead(leftover)


def remove_dead(leftover: Path) -> None:
    """Remove a temporary file unless its writer lives."""
    if sys.platform == "win32":  # there the system refuses while it is open
        with suppress(OSError):
            leftover.unlink()
        return
    with suppress(OSError), leftover.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leftover.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: sorted keys, indented, no NaN (a number that is none is null by our own rule)."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write(path, (text + "\n").encode())


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
