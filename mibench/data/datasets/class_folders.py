"""One folder a class: what is read of it, which class it is, which of its pictures are held out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mibench.data.directory_listing import Kind, entries, kind_of
from mibench.data.files import held_out, name_hash
from mibench.data.identity_names import composed
from mibench.data.images import FORMATS, SUFFIXES
from mibench.errors import MibenchError

RELEASED_SEED = 42  # of the shuffles in the released code of Plug & Play Attacks
RELEASED_SHARE = 0.9  # of the shuffled pictures that are trained on

# names of pictures that are not read, which a person may well take for images
UNREAD = (".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".jxl", ".ppm", ".pgm", ".tga")
NO_FILES = "pipes, sockets and devices were"


@dataclass
class Passed:
    """What was passed over while folders were read, by reason; paths below the root, for messages."""

    by_reason: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: Path) -> None:
        """Note a file or folder that is not read."""
        self.by_reason.setdefault(reason, []).append(path.name)

    def lines(self) -> list[str]:
        """``3 hidden files were passed over (first: .DS_Store)``, one for each reason."""
        return [
            f"{len(names):,} {reason} passed over (first: {names[0]})"
            for reason, names in sorted(self.by_reason.items())
        ]


def subfolders(folder: Path, passed: Passed) -> list[str]:
    """Names of the folders in ``folder``, sorted as text; hidden ones and files are passed over.

    Raises:
        MibenchError: the folder is not there, or a link in it leads nowhere or to itself.
    """
    names = []
    for entry in entries(folder):
        if entry.name.startswith((".", "__MACOSX")):
            passed.add("hidden entries were", Path(entry.path))
        elif (kind := _kind_of_entry(entry)) == "folder":
            names.append(entry.name)
        else:
            passed.add("files beside the class folders were" if kind == "file" else NO_FILES, Path(entry.path))
    return names


def pictures_in(folder: Path, passed: Passed) -> list[str]:
    """Names of the pictures in ``folder`` itself, sorted as text; links to files are followed.

    The order is that of the composed names (:func:`mibench.data.identity_names.composed`), the same on every system.

    Raises:
        MibenchError: the folder is not there, or a link in it leads nowhere or to itself.
    """
    names = []
    for entry in entries(folder):
        path = Path(entry.path)
        suffix = path.suffix.lower()
        if entry.name.startswith("."):
            passed.add("hidden entries were", path)
        elif (kind := _kind_of_entry(entry)) == "folder":
            passed.add("folders inside class folders were", path)
        elif kind != "file":
            passed.add(NO_FILES, path)
        elif suffix in UNREAD:
            passed.add(f"{suffix} files, which are not read ({', '.join(FORMATS)} are), were", path)
        elif suffix not in SUFFIXES:
            passed.add("files that are no images by name were", path)
        else:
            names.append(entry.name)
    return sorted(names, key=lambda name: (composed(name), name))


def _kind_of_entry(entry: os.DirEntry[str]) -> Kind:
    kind = kind_of(entry)
    if kind == "nothing":
        raise MibenchError(f"{entry.path} is a link that leads nowhere", cure="restore what it points at, or remove it")
    return kind


def hold_out(names: Sequence[str], share: float, salt: str) -> frozenset[str]:
    """The held-out pictures of one class, each by its own name: at least one is held out and at least one is not.

    Args:
        names: two or more, below the root.
        share: of the pictures, in (0, 1); chance decides how many exactly.
        salt: names the split.
    """
    out = {name for name in names if held_out(name, share, salt)}
    if not out or len(out) == len(names):
        first = min(names, key=lambda name: name_hash(name, salt))
        return frozenset({first}) if not out else frozenset(out - {first})
    return frozenset(out)


def released_shuffle(count: int) -> tuple[list[int], list[int]]:
    """Places of the train and of the test pictures as the released code of Plug & Play Attacks deals them.

    It shuffles whatever files it found, so one file more or less deals out nearly all of them anew.
    """
    indices = np.arange(count)
    np.random.RandomState(RELEASED_SEED).shuffle(indices)
    kept = int(RELEASED_SHARE * count)
    return indices[:kept].tolist(), indices[kept:].tolist()


def name_some(names: Iterable[str], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
