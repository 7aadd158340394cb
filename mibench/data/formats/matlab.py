"""MATLAB files of lists, read without trust: level 5, flat lists of text and numbers, nothing else.

scipy's reader is not for files that may be damaged: one wrong byte can end the process (it looks up the type of an
element beyond the end of a table), and a cell array gets all the room that it claims. Lists need little of the format.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from mibench.errors import MibenchError

LARGEST = 1 << 24  # bytes of a file; the released lists have a few hundred thousand
LARGEST_UNPACKED = 1 << 25  # bytes of what is compressed inside; the released lists have seven million
MOST_ITEMS = 1_000_000  # cells of an array, numbers of one: 20,580 pictures are in the longest list
HEADER = 128
MATRIX, COMPRESSED = 14, 15  # types of elements
CELL, TEXT, NUMBERS = 1, 4, range(6, 16)  # classes of arrays
COMPLEX = 0x800  # mark of an array with a second part
NAMES, SIDES = (1, 16), (5,)  # types of the elements that hold an array's name and its lengths
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CODECS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
WANTED = ("file_list", "labels")  # the released lists hold more, which is passed over
ENDS = {b"IM": "<", b"MI": ">"}


def read_list(path: Path) -> list[tuple[str, int]]:
    """``file_list`` and ``labels`` of one of Stanford Dogs' lists: (name, label as it stands) of each picture.

    Raises:
        MibenchError: no such file, no MATLAB file, or one with other contents.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}", cure="restore it") from error
    if content is None:
        raise MibenchError(f"{path} is larger than any list of pictures", cure="restore the released file")
    variables = _read(path, content)
    for name in WANTED:
        if name not in variables:
            raise MibenchError(f"{path} has no variable {name!r}", cure="restore the released file")
    names = [_text(cell, path) for cell in variables["file_list"]]
    labels = [_number(cell, path) for cell in variables["labels"]]
    if len(names) != len(labels) or not names:
        raise MibenchError(f"{path} has {len(names)} names and {len(labels)} labels", cure="restore the released file")
    return list(zip(names, labels, strict=True))


def _read(path: Path, content: bytes) -> dict[str, list[object]]:
    """The variables of a file."""
    from mibench.data.images import ANEW, looks_like

    order = ENDS.get(content[126:128])
    if len(content) < HEADER or order is None:
        raise MibenchError(f"{path} is no MATLAB file: {looks_like(path)}", cure=ANEW)
    if content[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise MibenchError(
            f"{path} is a MATLAB file of another version than the released lists (5)", cure="restore them"
        )
    variables, room = {}, LARGEST_UNPACKED
    try:
        for variable in _variables(content, order):
            room -= len(variable)
            if room < 0:
                raise MibenchError(
                    f"{path} unpacks to more than any list of pictures; it is not opened",
                    cure="restore the released file",
                )
            name, items = _Variable(variable, order).read()
            variables[name] = items
    except (ValueError, struct.error, zlib.error) as error:
        raise MibenchError(
            f"{path} is a damaged MATLAB file, or no flat list ({error})", cure="restore the released file"
        ) from error
    return variables


def _variables(content: bytes, order: str) -> Iterator[bytes]:
    """The bytes of each variable, unpacked but for what goes beyond the bound."""
    offset = HEADER
    while offset + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, offset)
        if offset + 8 + length > len(content):
            raise ValueError("it is cut off")
        if kind == COMPRESSED:
            packed = content[offset + 8 : offset + 8 + length]
            yield zlib.decompressobj().decompress(packed, LARGEST_UNPACKED + 1)
        else:
            yield content[offset : offset + 8 + length]
        offset += 8 + length


class _Variable:
    """Reads a variable from its first byte to its last."""

    def __init__(self, content: bytes, order: str) -> None:
        self.content = content
        self.order = order
        self.offset = 0

    def read(self) -> tuple[str, list[object]]:
        """Its name and its items: numbers, texts (one for an array of text), or those of its cells."""
        kind, items, name = self._head()
        if name not in WANTED:
            return name, []
        if kind != CELL:
            value = self._value(kind, items)
            return name, value if isinstance(value, list) else [value]
        if items > min(len(self.content) // 8, MOST_ITEMS):  # before there is room for them
            raise ValueError(f"it claims {items:,} cells")
        return name, [self._cell() for _ in range(items)]

    def _cell(self) -> object:
        kind, length = struct.unpack_from(f"{self.order}II", self.content, self.offset)
        if kind == MATRIX and not length:
            self.offset += 8
            return []
        inner, items, _ = self._head()
        return self._value(inner, items)

    def _head(self) -> tuple[int, int, str]:
        """Class, number of items and name of an array; the place is behind them."""
        (kind,) = struct.unpack_from(f"{self.order}I", self.content, self.offset)
        (word,) = struct.unpack_from(f"{self.order}I", self.content, self.offset + 16)
        if kind != MATRIX or word & COMPLEX:
            raise ValueError("something that is no array of text or real numbers")
        self.offset += 24
        _, lengths = self._element(SIDES)
        sides = struct.unpack(f"{self.order}{len(lengths) // 4}i", lengths)
        if min(sides, default=-1) < 0:
            raise ValueError("an array without a size")
        _, name = self._element(NAMES)
        return word & 0xFF, math.prod(sides), name.decode("utf-8")

    def _value(self, kind: int, items: int) -> str | list[object]:
        """What is behind the head of an array that is no cell: a text, or a list of numbers."""
        if kind == TEXT:
            element_type, content = self._element(CODECS)
            codec = CODECS[element_type]
            return content.decode(codec if "utf-" not in codec or codec == "utf-8" else codec + self._end)
        if kind not in NUMBERS:
            raise ValueError(f"an array of class {kind}")
        if items > MOST_ITEMS:
            raise ValueError(f"it claims {items:,} numbers")
        element_type, content = self._element(DTYPES)
        numbers = np.frombuffer(content, dtype=self.order + DTYPES[element_type])
        if len(numbers) != items:
            raise ValueError("an array of another length than it says")
        listed: list[object] = numbers.tolist()
        return listed

    @property
    def _end(self) -> str:
        return "-le" if self.order == "<" else "-be"

    def _element(self, types: Container[int]) -> tuple[int, bytes]:
        """Type and bytes of the next element, which must be one of ``types``."""
        kind, length = struct.unpack_from(f"{self.order}II", self.content, self.offset)
        start, following = self.offset + 8, self.offset + 8 + length + -length % 8
        if kind >> 16:  # four bytes or fewer stand in the tag itself
            kind, length, start, following = kind & 0xFFFF, kind >> 16, self.offset + 4, self.offset + 8
        if kind not in types or length > len(self.content) - start:
            raise ValueError(f"an element of type {kind} and {length:,} bytes")
        self.offset = following
        return kind, self.content[start : start + length]


def _text(cell: object, path: Path) -> str:
    if not isinstance(cell, str):
        raise MibenchError(
            f"{path} has a name that is no text ({type(cell).__name__})", cure="restore the released file"
        )
    return cell


def _number(cell: object, path: Path) -> int:
    cell = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell  # in a cell of its own
    if not isinstance(cell, int | float) or not math.isfinite(cell) or cell != int(cell):
        raise MibenchError(
            f"{path} has a label that is no whole number: {str(cell)[:40]!r}", cure="restore the released file"
        )
    return int(cell)
