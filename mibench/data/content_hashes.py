"""SHA-256 of many files: read on all cores, and remembered: a file is read once for as long as it stays as it is.

What was read is kept in ``$MIBENCH_HOME/cache/contents.sqlite``: path -> size, modification and change time (ns), inode
and hash. A file counts as unchanged while all four are the same; the change time is there because the others can be put
back (``touch -r``, ``cp -p``). A file that changed less than :data:`SETTLED` ago is read again the next time: the clock
of a file system ticks in steps of milliseconds, within which a second change would go unnoticed.

The ledger costs time only: it may be deleted, and where it cannot be written everything is read. ``MIBENCH_CACHE=0``
does without.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mibench.data.images import in_parallel
from mibench.errors import MibenchError
from mibench.system.paths import home
from mibench.system.progress import Reporter, current_reporter

SETTLED = 2 * 10**9  # ns
AT_ONCE = 500  # paths of one question to the ledger
COMMIT = 4096  # files read between two commits
BUSY = 30.0  # seconds to wait for another process that writes
LARGEST = 2**63  # of what SQLite stores
LAYOUT = """CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER,
inode INTEGER, sha256 BLOB) WITHOUT ROWID"""
COLUMNS = ["path", "size", "modified", "changed", "inode", "sha256"]

Stamp = tuple[int, int, int, int]  # size, modification time, change time, inode
_log = logging.getLogger(__name__)


def cache_root() -> Path | None:
    """Where what can be made again is kept; None when ``MIBENCH_CACHE`` is 0."""
    asked = os.environ.get("MIBENCH_CACHE", "1")
    if asked not in ("0", "1"):
        raise MibenchError(f"MIBENCH_CACHE must be 0 or 1, got {asked!r}")
    return home() / "cache" if asked == "1" else None


def content_hashes(paths: Sequence[Path], reporter: Reporter | None = None) -> list[bytes]:
    """SHA-256 of each file, 32 bytes, in order.

    Args:
        paths: any number of files; one that stands there twice is read once.
        reporter: who hears of the progress; None: the reporter of the command that runs.

    Raises:
        MibenchError: something that is missing, cannot be read or is no file; the line names it.
    """
    keys = [os.fsencode(path.absolute()) for path in paths]
    stamps = {key: _stamp(key) for key in dict.fromkeys(keys)}
    root = cache_root()
    with _ledger(None if root is None else root / "contents.sqlite") as ledger:
        hashes = _remembered(ledger, stamps)
        unread = [key for key in stamps if key not in hashes]
        if unread:
            hashes |= _read(ledger, unread, stamps, reporter or current_reporter())
    return [hashes[key] for key in keys]


def _read(
    ledger: sqlite3.Connection | None, keys: Sequence[bytes], stamps: dict[bytes, Stamp], reporter: Reporter
) -> dict[bytes, bytes]:
    """Hash the files and note them; what was read before an interruption stays noted."""

    def task(chunk: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        return [(key, _sha256(key)) for key in chunk]

    hashes: dict[bytes, bytes] = {}
    waiting: list[tuple[bytes, bytes]] = []
    with reporter.aside(f"reading {len(keys):,} files, once, to know them again") as progress:
        try:
            for read in in_parallel(task, keys, ahead=COMMIT):
                hashes.update(read)
                waiting += read
                progress.update(len(hashes), len(keys))
                if len(waiting) >= COMMIT:
                    _note(ledger, waiting, stamps)
                    waiting = []
        finally:
            _note(ledger, waiting, stamps)
    return hashes


def _sha256(key: bytes) -> bytes:
    try:
        with open(key, "rb") as file:  # noqa: PTH123 (tens of thousands of them)
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise _unreadable(key, error.strerror or str(error)) from error


def _stamp(key: bytes) -> Stamp:
    try:
        status = os.stat(key)  # noqa: PTH116
    except OSError as error:
        raise _unreadable(key, error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device has no end
        raise _unreadable(key, "it is no file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino % LARGEST


def _unreadable(key: bytes, reason: str) -> MibenchError:
    return MibenchError(f"{os.fsdecode(key)} cannot be read: {reason}", cure="restore it")


def _remembered(ledger: sqlite3.Connection | None, stamps: dict[bytes, Stamp]) -> dict[bytes, bytes]:
    """The hashes that are known of files as they are now."""
    hashes: dict[bytes, bytes] = {}
    if ledger is None:
        return hashes
    keys = list(stamps)
    try:
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            asked = f"SELECT path, size, modified, changed, inode, sha256 FROM files WHERE path IN ({_marks(part)})"
            for path, size, modified, changed, inode, sha256 in ledger.execute(asked, part):
                if (size, modified, changed, inode) == stamps[path] and len(sha256) == hashlib.sha256().digest_size:
                    hashes[path] = sha256
    except sqlite3.Error as error:
        _log.warning("the ledger of file contents cannot be read (%s); files are read again", error)
    return hashes


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _note(ledger: sqlite3.Connection | None, read: Sequence[tuple[bytes, bytes]], stamps: dict[bytes, Stamp]) -> None:
    """Remember files that have been at rest since before they were read."""
    if ledger is None or not read:
        return
    rows = []
    for key, sha256 in read:
        settled = time.time_ns() - stamps[key][2 if os.name == "posix" else 1] > SETTLED
        if settled and _still(key, stamps[key]):
            rows.append((key, *stamps[key], sha256))
    try:
        with ledger:
            ledger.executemany(f"INSERT OR REPLACE INTO files VALUES ({_marks('......')})", rows)
    except sqlite3.Error as error:
        _log.warning("the ledger of file contents cannot be written (%s); files are read again next time", error)


def _still(key: bytes, stamp: Stamp) -> bool:
    """Whether a file is what it was before it was read."""
    try:
        return _stamp(key) == stamp
    except MibenchError:
        return False


@contextmanager
def _ledger(path: Path | None) -> Iterator[sqlite3.Connection | None]:
    """The open ledger; None without a cache, or where it cannot be opened. One that is broken is begun again."""
    opened = None if path is None else _opened(path)
    if opened is None:
        yield None
        return
    with closing(opened):
        yield opened


def _opened(path: Path) -> sqlite3.Connection | None:
    for attempt in ("as it is", "anew"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if attempt == "anew":
                path.unlink(missing_ok=True)
            connection = sqlite3.connect(path, timeout=BUSY)
        except (OSError, sqlite3.Error) as error:
            _log.warning("the ledger of file contents %s cannot be opened (%s); files are read again", path, error)
            return None
        try:
            with connection:
                connection.execute(LAYOUT)
                columns = [str(column[1]) for column in connection.execute("PRAGMA table_info(files)")]
                if columns != COLUMNS:
                    raise sqlite3.DatabaseError(f"its columns are {', '.join(columns)}")
                connection.execute("SELECT * FROM files LIMIT 1").fetchall()
            return connection
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError) or attempt == "anew":
                _log.warning("the ledger of file contents %s cannot be used (%s); files are read again", path, error)
                return None
    return None
