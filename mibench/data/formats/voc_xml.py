"""Bounding boxes from XML as Pascal VOC writes it, read without trust: no document type, no entities, no large file."""

from __future__ import annotations

from pathlib import Path
from xml.parsers import expat

from mibench.errors import MibenchError

LARGEST = 1 << 18  # bytes of a file; the released ones have about five hundred
SIDES = ("xmin", "ymin", "xmax", "ymax")


class _Refused(Exception):
    """Something that no annotation holds."""


class _FirstBox:
    """Hears the parser and keeps the sides of the first ``object/bndbox``."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.objects = 0
        self.sides: dict[str, str] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """A tag begins."""
        del attributes
        self.open.append(name)
        if len(self.open) > 16:
            raise _Refused("tags nested deeper than an annotation has them")
        if self.open == ["annotation", "object"]:
            self.objects += 1

    def end(self, name: str) -> None:
        """A tag ends."""
        del name
        self.open.pop()

    def text(self, text: str) -> None:
        """Text between tags; a parser may deliver it in pieces."""
        if self.objects == 1 and self.open[:3] == ["annotation", "object", "bndbox"] and len(self.open) == 4:
            self.sides[self.open[3]] = self.sides.get(self.open[3], "") + text


def _refuse(*anything: object) -> None:
    del anything
    raise _Refused("a document type or an entity, which no annotation has")


def first_box(path: Path) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the first object, in pixels, as it stands.

    Raises:
        MibenchError: no such file, no XML, no box, or a document type (entities can grow without bound).
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as error:
        raise MibenchError(f"cannot read the annotation {path}: {error.strerror}", cure="restore it") from error
    if content is None:
        raise MibenchError(f"{path} is larger than any annotation; it is not read", cure="restore it")
    heard = _FirstBox()
    parser = expat.ParserCreate()
    parser.StartElementHandler = heard.start
    parser.EndElementHandler = heard.end
    parser.CharacterDataHandler = heard.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: of an encoding that it names
        raise MibenchError(f"{path} is no XML ({error})", cure="restore it") from error
    except _Refused as error:
        raise MibenchError(f"{path} holds {error}; it is not read", cure="restore it") from error
    try:
        left, top, right, bottom = (round(float(heard.sides[side])) for side in SIDES)
    except (KeyError, ValueError, OverflowError) as error:
        raise MibenchError(f"{path} has no box with {', '.join(SIDES)} in numbers", cure="restore it") from error
    if not (left < right and top < bottom):
        raise MibenchError(f"{path} has an empty box {(left, top, right, bottom)}", cure="restore it")
    return left, top, right, bottom
