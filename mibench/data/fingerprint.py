"""What makes a data set of files the data set that it is: the contents of its files, who is on them, and the settings.

A digest of a data set of files is ``whole-private-public-listed-settings``: SHA-256 over everything (16 digits), then
over each part alone (8 digits), so that two digests tell what differs, also on a card that came from elsewhere. Digests
without parts are of data that is made from settings alone, or of a time when files were told apart by their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from mibench.data.content_hashes import content_hashes
from mibench.data.identity_names import composed
from mibench.data.images import Framing, Picture
from mibench.data.rows import ROLES, Role, Row
from mibench.data.split import IdentitySplit

WHOLE, PART = 16, 8  # digits
DIFFERENCES = {
    "private": "the private images have other contents",
    "public": "the public images have other contents",
    "listed": "other files are listed, or as other people",
    "settings": "the settings of the data set are others",
}


@dataclass(frozen=True)
class Parts:
    """SHA-256 of each part, hexadecimal.

    Attributes:
        private: contents of the private images, and of what else decides them (annotations), in their order.
        public: the same of the public images, those of another data set included.
        listed: names, labels and people of all images.
        settings: the data set's name, framing and details.
    """

    private: str
    public: str
    listed: str
    settings: str

    @property
    def digest(self) -> str:
        """As it stands on cards and in records."""
        parts = asdict(self)
        combined = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:WHOLE]
        return "-".join([combined, *(part[:PART] for part in parts.values())])


@runtime_checkable
class OfFiles(Protocol):
    """What is read of a split whose pictures are files; :class:`mibench.data.files.FileSplit` describes the members."""

    @property
    def name(self) -> str: ...
    @property
    def framing(self) -> Framing: ...
    @property
    def public_source(self) -> IdentitySplit | None: ...
    @property
    def parts(self) -> Parts: ...
    def rows(self, role: Role) -> Sequence[Row]: ...
    def picture(self, row: Row) -> Picture: ...
    def beside(self, row: Row) -> Path | None: ...
    def details(self) -> dict[str, object]: ...


def parts_of(split: OfFiles) -> Parts:
    """Read whatever of a data set was not read before.

    Raises:
        MibenchError: a file that is missing or cannot be read.
    """
    files, listed = [], hashlib.sha256()
    for role in ROLES:
        for row in split.rows(role):
            line = f"{role}\0{composed(row.name)}\0{row.label}\0{composed(row.identity)}\n"
            listed.update(line.encode("utf-8", "surrogateescape"))
            picture = split.picture(row)
            besides = split.beside(row)
            files.append((role, picture.path, repr(picture.box)))
            if besides is not None:
                files.append((role, besides, "beside"))
    contents = {"private": hashlib.sha256(), "public": hashlib.sha256()}
    for (role, _, note), content in zip(files, content_hashes([path for _, path, _ in files]), strict=True):
        contents["public" if role == "public" else "private"].update(content + note.encode())
    head = {"data set": split.name, "framing": asdict(split.framing), "details": split.details()}
    settings = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    source = split.public_source
    if isinstance(source, OfFiles):
        inner = source.parts
        for digest, part in ((contents["public"], "public"), (listed, "listed"), (settings, "settings")):
            digest.update(f"\0{source.name}\0{getattr(inner, part)}".encode())
        contents["public"].update(inner.private.encode())
    elif source is not None:
        contents["public"].update(f"\0{source.name}\0{source.digest}".encode())
    return Parts(
        contents["private"].hexdigest(), contents["public"].hexdigest(), listed.hexdigest(), settings.hexdigest()
    )


def what_changed(recorded: str, now: str) -> str:
    """Why data is another than that of which a digest was recorded; for a message."""
    before, after = parts_in(recorded), parts_in(now)
    if after and not before:
        return (
            "it was recorded by the names of the files alone, which other images under the same names have as well "
            "(mibench now records their contents)"
        )
    if not before or not after:
        return f"digest {recorded}, here {now}"
    return " and ".join(_differences(before, after)) or f"digest {recorded}, here {now}"


def _differences(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for part, what in DIFFERENCES.items():
        if before[part] != after[part]:
            yield what


def parts_in(digest: str) -> dict[str, str]:
    """Part -> digits; empty for a digest without parts."""
    _, *parts = digest.split("-")
    return dict(zip(DIFFERENCES, parts, strict=True)) if len(parts) == len(DIFFERENCES) else {}
