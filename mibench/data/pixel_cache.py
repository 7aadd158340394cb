"""Decoded pixels on disk: a mapped uint8 file per list of pictures, size and framing, filled on demand.

Layout of ``$MIBENCH_HOME/cache/images/<key>/``::

    pixels.npy   uint8 (N, S, S, 3)
    done.npy     int64 (N, 2): the first 16 bytes of the SHA-256 of the file that a row was decoded from; 0: not yet
    about.json   what this is, for whoever looks
    .lock        held by the process that fills

A row counts only when ``done.npy`` says so, and that is written after the pixels have reached the disk, so a crash at
any moment costs the rows of the last minute. A file that has other contents since is decoded again, that row alone: by
size and times it would be taken for the old one where a copy brought both with it. Everything may be deleted whenever
nothing runs. ``MIBENCH_CACHE=0`` does without.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mibench.data.content_hashes import cache_root, content_hashes
from mibench.data.images import Framing, Picture, Pixels, decoded
from mibench.errors import MibenchError
from mibench.system.file_lock import held
from mibench.system.files import atomic_write
from mibench.system.progress import Reporter

LAYOUT = 2
COMMIT = 1 << 26  # bytes of pixels between two commits
WITHOUT = "make room or choose another MIBENCH_HOME; MIBENCH_CACHE=0 does without the cache"
Mode = Literal["r", "r+", "c"]
Rows = npt.NDArray[np.int64]  # (n,)
Stamps = npt.NDArray[np.int64]  # (n, 2)


def cache_folder() -> Path | None:
    """Where caches of decoded images lie; None when ``MIBENCH_CACHE`` is 0."""
    root = cache_root()
    return None if root is None else root / "images"


@dataclass(frozen=True)
class PixelCache:
    """The cache of one list of pictures at one size and framing."""

    folder: Path
    pictures: Sequence[Picture]
    size: int
    framing: Framing

    @classmethod
    def of(cls, home: Path, pictures: Sequence[Picture], size: int, framing: Framing) -> PixelCache:
        """The cache for these pictures below ``home``: its key covers paths, boxes, framing and size."""
        digest = hashlib.sha256(json.dumps([LAYOUT, size, asdict(framing)]).encode())
        for picture in pictures:
            digest.update(f"{picture.path.absolute()}\0{picture.box}\n".encode("utf-8", "surrogateescape"))
        return cls(home / digest.hexdigest()[:24], pictures, size, framing)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, 3)."""
        return len(self.pictures), self.size, self.size, 3

    def read(self, rows: Rows, reporter: Reporter) -> Pixels:
        """Pixels ``(n, S, S, 3)`` of the rows, decoding those that are not there yet.

        Neighbouring rows in order come as a view of the mapped file, others as a copy.
        """
        stamps = self._stamps_of_files(rows, reporter)
        if self._stale(rows, stamps).size:
            with self._writing(reporter):
                self._prepare()
                stale = self._stale(rows, stamps)  # another process may have filled them while this one waited
                if stale.size:
                    self._fill(rows[stale], stamps[stale], reporter)
        mapped = self._mapped("c")  # private pages: whoever writes to a view does not write to the cache
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == rows.size and (rows.size == 1 or bool((np.diff(rows) == 1).all())):
            return np.asarray(mapped[first : last + 1])
        return np.asarray(mapped[rows])

    def _stamps_of_files(self, rows: Rows, reporter: Reporter) -> Stamps:
        """What each file holds, int64 ``(n, 2)``."""
        hashes = content_hashes([self.pictures[row].path for row in rows], reporter)
        return np.frombuffer(b"".join(content[:16] for content in hashes), dtype=np.int64).reshape(-1, 2)

    def _stale(self, rows: Rows, stamps: Stamps) -> Rows:
        """Places in ``rows`` whose pixels are not there, or are of another file."""
        done = self._open("done.npy", (len(self.pictures), 2), np.int64, "r")
        if done is None or self._open("pixels.npy", self.shape, np.uint8, "r") is None:
            return np.arange(rows.size)
        wrong = (np.asarray(done[rows]) != stamps).any(axis=1)
        return np.flatnonzero(wrong)

    def _open(self, name: str, shape: tuple[int, ...], kind: type, mode: Mode) -> np.memmap[Any, Any] | None:
        """A mapped array, or None when the file is not there or is not what it should be."""
        try:
            mapped = np.lib.format.open_memmap(self.folder / name, mode=mode)
        except (OSError, ValueError, EOFError):
            return None
        return mapped if mapped.shape == shape and mapped.dtype == kind else None

    def _mapped(self, mode: Mode) -> np.memmap[Any, np.dtype[np.uint8]]:
        pixels: np.memmap[Any, np.dtype[np.uint8]] | None = self._open("pixels.npy", self.shape, np.uint8, mode)
        if pixels is None:
            raise MibenchError(f"{self.folder} was deleted or cannot be mapped while in use", cure=WITHOUT)
        return pixels

    @contextmanager
    def _writing(self, reporter: Reporter) -> Iterator[None]:
        """Hold the cache; another process that fills it is waited for, since its work is wanted here too."""
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                what = f"the images in {self.folder} are being decoded"
                stack.enter_context(held(self.folder / ".lock", what, patience=-1, reporter=reporter))
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    def _prepare(self) -> None:
        """Make both files where one of them is missing or wrong. Pages that nobody filled take no room on the disk."""
        wanted = {"pixels.npy": (self.shape, np.uint8), "done.npy": ((len(self.pictures), 2), np.int64)}
        if all(self._open(name, shape, kind, "r") is not None for name, (shape, kind) in wanted.items()):
            return
        about = {"count": len(self.pictures), "size": self.size, "framing": asdict(self.framing)}
        about["first"] = str(self.pictures[0].path.absolute())
        atomic_write(self.folder / "about.json", (json.dumps(about, indent=2) + "\n").encode(), sweep=True)
        try:
            (self.folder / "done.npy").unlink(missing_ok=True)  # first: it must never vouch for new, empty pixels
            for name, (shape, kind) in wanted.items():
                fresh = self.folder / f".{name}.tmp"
                np.lib.format.open_memmap(fresh, mode="w+", dtype=kind, shape=shape)
                fresh.replace(self.folder / name)
        except OSError as error:
            raise self._unwritable(error) from error

    def _fill(self, rows: Rows, stamps: Stamps, reporter: Reporter) -> None:
        """Decode rows and store them; what was finished before an error or an interruption stays."""
        images = decoded([self.pictures[row] for row in rows], self.size, self.framing, reporter)
        every = max(1, COMMIT // (self.size * self.size * 3))
        try:
            with _RowFile(self.folder / "pixels.npy") as pixels, _RowFile(self.folder / "done.npy") as done:
                kept = written = 0

                def commit() -> None:  # pixels to the disk first, then the word that they are there
                    nonlocal kept
                    pixels.sync()
                    for index in range(kept, written):
                        done.put(int(rows[index]), stamps[index])
                    kept = written

                try:
                    for image in images:
                        pixels.put(int(rows[written]), image)
                        written += 1
                        if written - kept == every:
                            commit()
                finally:
                    commit()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> MibenchError:
        return MibenchError(f"cannot write the cache {self.folder}: {error.strerror or error}", cure=WITHOUT)


class _RowFile:
    """Writes rows of a ``.npy`` file through the file, not its mapping: a full disk is then an error, not a signal."""

    def __init__(self, path: Path) -> None:
        self._start = int(np.lib.format.open_memmap(path, mode="r").offset)
        self._file = path.open("r+b", buffering=0)

    def __enter__(self) -> _RowFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def put(self, row: int, values: npt.NDArray[np.uint8] | npt.NDArray[np.int64]) -> None:
        """Store one row."""
        content = memoryview(values.tobytes())
        self._file.seek(self._start + row * len(content))
        while content:  # the system may take less than it was given
            content = content[self._file.write(content) :]

    def sync(self) -> None:
        """Wait until the disk has everything."""
        os.fsync(self._file.fileno())
