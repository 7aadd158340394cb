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
COMPRESSED = 15  # type of a compressed element
# what the library raises on damaged files
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, OverflowError, MemoryError, struct.error,
           zlib.error, NotImplementedError)  # fmt: skip


def read_list(path: Path) -> list[tuple[str, int]]:
    """``file_list`` and ``labels`` of one of Stanford Dogs' lists: (name, label as it stands) of each picture.

    Raises:
        MibenchError: no such file, no MATLAB file, or one with other contents.
    """
    from scipy.io import loadmat, whosmat  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}; restore it") from error
    if content is None:
        raise MibenchError(f"{path} is larger than any list of pictures; restore the released file")
    _check_container(path, content)
    try:
        # the library makes room for as many cells as an array claims before it reads the first
        claimed = sum(math.prod(shape) for _, shape, _ in whosmat(path, appendmat=False))
        if claimed > LARGEST_UNPACKED // 8:
            raise MibenchError(f"{path} claims {claimed:,} items, more than any list of pictures; it is not opened")
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
    """A level-5 file whose compressed parts are small when unpacked, before the library allocates anything."""
    from mibench.data.decoding import first_bytes

    if len(content) < HEADER or content[126:128] not in (b"IM", b"MI"):
        raise MibenchError(f"{path} is no MATLAB file: {first_bytes(path)}")
    if content[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise MibenchError(f"{path} is a MATLAB file of another version than the released lists (5); restore them")
    if sum(_unpacked(content)) > LARGEST_UNPACKED:
        raise MibenchError(f"{path} unpacks to more than any list of pictures; it is not opened")


def _unpacked(content: bytes) -> Iterator[int]:
    """Bytes that each compressed element unpacks to, counted without keeping them; stops at what is not one."""
    order = "<" if content[126:128] == b"IM" else ">"
    place = HEADER
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            packed = content[place + 8 : place + 8 + length]
            total = 0
            try:
                while packed and total <= LARGEST_UNPACKED:
                    total += len(inflater.decompress(packed, 1 << 20))
                    packed = inflater.unconsumed_tail
            except zlib.error:
                return  # the library says what is wrong with it
            yield total
        place += 8 + length


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
