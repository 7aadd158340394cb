"""Run directories for workers that do not see the folder of the sweep: they go there and come back as files in memory.

A sidecar is written after its tensors and ``run.json`` last, as a run itself does, so that a run which is cut off at
any moment of the way is continued like any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mibench.errors import MibenchError
from mibench.system.files import atomic_write

Files = Mapping[str, bytes]  # path below the folder, with slashes -> contents
OF_A_HOME = ("cards", "weights")  # what runs need of a person's own, below MIBENCH_HOME


def packed(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The files below some folders in ``folder``, without locks and what is half written."""
    return {name: (folder / name).read_bytes() for name in _listed(folder, names)}


def unpack(files: Files, folder: Path) -> None:
    """Write files, each whole or not at all, those that vouch for others last.

    Raises:
        MibenchError: a path that leads elsewhere; the folder cannot be written.
    """
    for name in sorted(files, key=_rank):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise MibenchError(f"a worker sent the file {name!r}, which leads out of the folder of the sweep")
        atomic_write(folder / path, files[name])


def digest_of(files: Files) -> str:
    """SHA-256 (hex) over names and contents."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


@dataclass
class Changes:
    """Files below some folders that are new or other than when they were last asked for."""

    folder: Path
    names: tuple[str, ...]
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def taken(self) -> dict[str, bytes]:
        """What has changed since the last time."""
        changed = {}
        for name in _listed(self.folder, self.names):
            path = self.folder / name
            try:
                status = path.stat()
                state = status.st_mtime_ns, status.st_size
                if self._seen.get(name) != state:
                    changed[name] = path.read_bytes()
                    self._seen[name] = state
            except FileNotFoundError:  # replaced at this very moment: next time
                continue
        return changed


def _listed(folder: Path, names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        for directory, _, files in os.walk(folder / name):
            found += [(Path(directory) / file).relative_to(folder).as_posix() for file in files if file[0] != "."]
        if (folder / name).is_file():
            found.append(name)
    return sorted(found)


def _rank(name: str) -> tuple[int, str]:
    path = PurePosixPath(name)
    return (2 if path.name == "run.json" else 1 if path.suffix == ".json" else 0), name
