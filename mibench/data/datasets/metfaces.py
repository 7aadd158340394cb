"""MetFaces: 1,336 faces in works of art, the second public set of Plug & Play Attacks. Below ``root``::

images/10000-00.png ...        1024 pixels
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mibench.data.checks import Finding, expect_folder, require
from mibench.data.datasets.class_folders import Passed, pictures_in
from mibench.data.datasets.public_only import PublicOnly
from mibench.data.images import Framing
from mibench.errors import MibenchError

FOLDER = "images"
IMAGES = 1336


@dataclass(frozen=True, kw_only=True)
class MetFaces(PublicOnly):
    """MetFaces, sorted by file name.

    Raises:
        MibenchError: the folder is missing or holds no picture.
    """

    name: ClassVar[str] = "metfaces"

    root: str = ""  # folder; empty: $MIBENCH_DATA/metfaces
    crop: int | None = None  # centre crop in pixels of the file; nobody trains on the pictures themselves

    def __post_init__(self) -> None:
        require(self.name, self.folder, self.inspect(self.folder, {}))
        if not self.rows("public"):
            raise MibenchError(f"{self.folder / FOLDER} holds no image", cure="unpack MetFaces there")

    @property
    def framing(self) -> Framing:
        """Square pictures, cropped where ``crop`` says so."""
        return Framing(crop=self.crop)

    def listed(self) -> Sequence[str]:
        """Everything in ``images``."""
        return [f"{FOLDER}/{name}" for name in pictures_in(self.folder / FOLDER, Passed())]

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """The one folder."""
        del settings
        yield from expect_folder(folder, FOLDER, "the faces, 1024 pixels")

    def remarks(self) -> Iterator[Finding]:
        """Whether these are as many as were released."""
        if (count := len(self.rows("public"))) != IMAGES:
            yield Finding("note", f"{count:,} images, MetFaces has {IMAGES:,}", "unpack the whole archive")
