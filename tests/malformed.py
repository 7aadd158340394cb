"""How `test_malformed` spoils things: a world of tiny, well-formed inputs, copied for each row before it is damaged."""

from __future__ import annotations

import hashlib
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HTML = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


@dataclass(frozen=True)
class World:
    """What a row may use: well-formed trees to copy, and a place of its own.

    Attributes:
        trees: one folder for each data set in its format, made once; never written to.
        place: an empty folder of the row's own, and the working directory.
        home: `$MIBENCH_HOME` of the row.
    """

    trees: Path
    place: Path
    home: Path

    def tree(self, name: str) -> Path:
        """A copy of a data set's tree."""
        return Path(shutil.copytree(self.trees / name, self.place / name, dirs_exist_ok=True))

    def file(self, name: str, content: bytes) -> Path:
        """A file with this content."""
        path = self.place / name
        path.write_bytes(content)
        return path


@dataclass(frozen=True)
class Row:
    """A malformed input.

    Attributes:
        name: what is wrong, in words.
        spoil: makes it and returns the arguments of `mibench`.
        told: what the one line must hold: the cause, and the cure.
    """

    name: str
    spoil: Callable[[World], list[Any]]
    told: tuple[str, ...]


class Call:
    """Pickles to a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file below some folders with its hash.

    Left out, each for a reason: locks (empty, and deleting one that somebody waits for is a race), folders with nothing
    in them but such, and ``cache`` of the home (decoded pixels and features by content: nothing there is a result, and
    none can be taken for another).
    """
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or path.name.endswith(".lock") or folder / "cache" in path.parents:
                continue
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    return found


# Pictures


def first_picture(folder: Path, suffix: str = "jpg") -> Path:
    """The first picture below a folder, by name."""
    return min(folder.rglob(f"*.{suffix}"))


def cut(path: Path, share: float = 0.5) -> Path:
    """Keep only the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def bomb_png(side: int = 40_000) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def edit(path: Path, change: Callable[[list[str]], Any]) -> Path:
    """Change the lines of a list in place."""
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")
    return path
