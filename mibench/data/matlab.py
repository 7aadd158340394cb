"""MATLAB files of lists, read without trust: small, of a known format, with the columns that are asked for."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mibench.errors import MibenchError

LARGEST = 1 << 24  # bytes of a file; the released lists have a few hundred thousand
LARGEST_UNPACKED = 1 << 27  # bytes of what is compressed inside
HEADER = 128
COMPRESSED, MATRIX = 15, 14  # types of elements
CELL, TEXT, NUMBERS = 1, 4, range(6, 16)  # classes of arrays
TEXTS, NUMERIC = (1, 2, 3, 4, 16, 17, 18), (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)  # types of elements that hold them
COMPLEX = 0x800  # mark of an array with a second part
# what the library raises on damaged files
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, OverflowError, MemoryError, struct.error,
           zlib.error, NotImplementedError)  # fmt: skip


def read_list(path: Path) -> list[tuple[str, int]]:
    """``file_list`` and ``labels`` of one of Stanford Dogs' lists: (name, label as it stands) of each picture.

    Raises:
        MibenchError: no such file, no MATLAB file, or one with other contents.
    """
    from scipy.io import loadmat  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}; restore it") from error
    if content is None:
        raise MibenchError(f"{path} is larger than any list of pictures; restore the released file")
    _check_container(path, content)
    try:
        found = loadmat(path, appendmat=False, variable_names=["file_list", "labels"])
    except (*_DAMAGE, MatReadError) as error:
        raise MibenchError(f"{path} is a damaged MATLAB file ({type(error).__name__}); download it again") from error
    for name in ("file_list", "labels"):
        if name not in found:
            raise MibenchError(f"{path} has no variable {name!r}; restore the released file")
    names = [_text(cell, path) for cell in np.asarray(found["file_list"], dtype=object).ravel()]
    labels = [_number(cell, path) for cell in np.asarray(found["labels"], dtype=object).ravel()]
    if len(names) != len(labels) or not names:
        raise MibenchError(f"{path} has {len(names)} names and {len(labels)} labels; restore the released file")
    return list(zip(names, labels, strict=True))


def _check_container(path: Path, content: bytes) -> None:
    """A level-5 file of flat lists, small when unpacked; seen to before the library allocates anything."""
    from mibench.data.decoding import first_bytes

    if len(content) < HEADER or content[126:128] not in (b"IM", b"MI"):
        raise MibenchError(f"{path} is no MATLAB file: {first_bytes(path)}")
    if content[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise MibenchError(f"{path} is a MATLAB file of another version than the released lists (5); restore them")
    order, room = "<" if content[126:128] == b"IM" else ">", LARGEST_UNPACKED
    try:
        for packed, variable in _variables(content, order):
            room -= len(variable) if packed else 0
            if room < 0:
                raise MibenchError(f"{path} unpacks to more than any list of pictures; it is not opened")
            if not _is_flat(variable, order):
                raise MibenchError(
                    f"{path} is damaged or no list of pictures (lists in lists, or without end); restore the released "
                    "file"
                )
    except zlib.error as error:  # not left to the library: it reads up to the damage
        raise MibenchError(f"{path} is a damaged MATLAB file ({error}); download it again") from error


def _variables(content: bytes, order: str) -> Iterator[tuple[bool, bytes | memoryview]]:
    """Whether a variable is packed, and its bytes: unpacked, or all that follows, which the library may read too."""
    place = HEADER
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        if kind == COMPRESSED:
            packed = content[place + 8 : place + 8 + length]
            yield True, zlib.decompressobj().decompress(packed, LARGEST_UNPACKED + 1)
        else:
            yield False, memoryview(content)[place:]
        place += 8 + length


def _is_flat(variable: bytes | memoryview, order: str) -> bool:
    """Whether a variable is text or numbers, or cells of these that are all there.

    The library makes room for as many cells as an array claims before it reads the first, and what is in a cell may
    claim again; an element of an unknown type ends the process. So the variable is followed here the way the library
    reads it: part by part, stated lengths of whole arrays ignored.
    """
    place = 0

    def element(*types: int) -> bytes:
        nonlocal place
        kind, length = struct.unpack_from(f"{order}II", variable, place)
        if kind & 0xFFFF not in types:
            raise ValueError("an element of another type")
        if kind >> 16:  # four bytes or fewer stand in the tag itself
            start, length, place = place + 4, kind >> 16, place + 8
        else:
            start, place = place + 8, place + 8 + length + -length % 8
        return bytes(variable[start : start + length])

    def array() -> tuple[int, int]:
        """Class and number of items; the place is behind the head."""
        nonlocal place
        (word,) = struct.unpack_from(f"{order}I", variable, place + 16)
        place += 24
        sides = element(5, 6)
        element(1, 16)  # its name
        return word & (0xFF | COMPLEX), math.prod(
            struct.unpack(f"{order}{len(sides) // 4}i", sides[: len(sides) // 4 * 4])
        )

    def content(kind: int) -> None:
        """What is behind the head of an array that is no cell."""
        if kind & ~COMPLEX != TEXT and kind & ~COMPLEX not in NUMBERS:
            raise ValueError("an array of another class")
        for _ in range(2 if kind & COMPLEX else 1):
            element(*(TEXTS if kind & ~COMPLEX == TEXT else NUMERIC))

    try:
        kind, items = array()
        if kind & ~COMPLEX != CELL:
            content(kind)
            return True
        if items > len(variable) // 8:
            return False
        for _ in range(items):
            tag, length = struct.unpack_from(f"{order}II", variable, place)
            if tag == MATRIX and not length:  # an empty cell
                place += 8
                continue
            if tag != MATRIX:
                return False
            content(array()[0])
    except ValueError:
        return False
    except struct.error:
        pass  # it is cut off: so it will be for the library
    return True


def _text(cell: Any, path: Path) -> str:
    """A cell is an array around a string, as MATLAB has it; some files hold the string itself."""
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.ravel()[0]
    if not isinstance(cell, str):
        raise MibenchError(f"{path} has a name that is no text ({type(cell).__name__}); restore the released file")
    return str(cell)


def _number(cell: Any, path: Path) -> int:
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.ravel()[0]
    if not isinstance(cell, int | float | np.integer | np.floating) or not np.isfinite(cell) or cell != int(cell):
        raise MibenchError(f"{path} has a label that is no whole number: {str(cell)[:40]!r}; restore the released file")
    return int(cell)
