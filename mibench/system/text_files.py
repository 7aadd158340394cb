"""Small text files that a person or a crash may have spoilt: read within bounds, or refused in one line.

A name can lead to anything: a pipe nobody writes to, a device without end, a file of gigabytes, JSON of another shape
than what was written. Whoever reads a record gets what it expects, or a :class:`MibenchError` that names the file.
"""

from __future__ import annotations

import json
import math
import stat
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

from mibench.errors import MibenchError
from mibench.system.canonical import JsonObject

MOST_BYTES = 64_000_000  # of a record; those of a run take kilobytes
LONGEST = 80  # characters of somebody's value in a message
CURE = "delete it or restore it"


def shown(value: object) -> str:
    """The beginning of a value, on one line: ``'many'``, ``[1, 2, 3, ...``."""
    return _cut(repr(value))


def typed(text: str) -> str:
    """The beginning of a text as it was typed, on one line: without quotes, line breaks and the like escaped."""
    return _cut(repr(text)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def read_text(path: Path, *, most: int = MOST_BYTES, cure: str = "") -> str:
    """The text of a regular file of at most ``most`` bytes.

    Raises:
        MibenchError: a folder, a pipe, a device, a file that is too large, cannot be read or is not UTF-8; ``cure``
            ends the line.
    """
    try:
        mode = path.stat().st_mode  # asked before it is opened: opening a pipe waits for somebody to write
        if not stat.S_ISREG(mode):
            raise MibenchError(f"cannot read {path}: {_kind(mode)}, not a file", cure=cure)
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror or error}", cure=cure) from error
    except ValueError as error:  # a null character in the name
        raise MibenchError(f"cannot read {str(path)!r}: {error}", cure=cure) from error
    if len(content) > most:
        raise MibenchError(f"cannot read {path}: more than {most:,} bytes, which no file of this kind has", cure=cure)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MibenchError(f"cannot read {path}: not UTF-8 text", cure=cure) from error


def resource_text(file: Traversable, source: str) -> str:
    """The text of a file in a package, which may lie in an archive.

    Raises:
        MibenchError: it cannot be read or is not UTF-8; ``source`` names it.
    """
    if isinstance(file, Path):
        return read_text(file)
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MibenchError(f"cannot read {source}: {error}") from error


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if test(mode):
            return name
    return "a device"


def parse_json(text: str) -> Any:
    """JSON as this project writes it: finite numbers, whole ones of at most 64 bits, not nested without end.

    Raises:
        ValueError: it is something else.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _whole(text: str) -> int:
    number = int(text) if len(text) < LONGEST else 2**63
    return number if -(2**63) <= number < 2**63 else _no_number(text[:LONGEST])


def read_json(path: Path, *, cure: str = CURE) -> Any:
    """Read JSON.

    Raises:
        MibenchError: what is there is not JSON; names the file.
    """
    text = read_text(path, cure=cure)
    try:
        return parse_json(text)
    except ValueError as error:
        raise MibenchError(f"cannot read {path}: not valid JSON ({error})", cure=cure) from error


def read_object(path: Path, *, cure: str = CURE) -> JsonObject:
    """Read a JSON object.

    Raises:
        MibenchError: what is there is not JSON, or another kind of value; names the file.
    """
    content = read_json(path, cure=cure)
    if not isinstance(content, dict):
        raise MibenchError(f"cannot read {path}: expected a JSON object, got {shown(content)}", cure=cure)
    return content
