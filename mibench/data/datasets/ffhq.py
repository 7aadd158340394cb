"""FFHQ: 70,000 portraits, the public images of most published attacks on faces. Below ``root``::

thumbnails128x128/00000/00000.png ... 69000/69999.png      128 pixels; also without the inner folders
images1024x1024/<same>                                     1024 pixels
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from mibench.data.checks import Finding, expect_folder, require
from mibench.data.datasets.public_only import PublicOnly
from mibench.data.directory_listing import entries, kind_of
from mibench.data.files import Missing, without_missing
from mibench.data.images import Framing, Picture
from mibench.data.rows import Row
from mibench.errors import MibenchError

IMAGES = 70_000
BUCKET = 1000  # pictures an inner folder
SIDES = {"thumbnails128x128": 128, "images1024x1024": 1024}
THUMBNAIL = 128
NUMBERED = re.compile(r"\d{5}\.png")


def numbered(count: int) -> list[str]:
    """``00000/00000.png`` ...: the order of the list that KEDMI's successors released."""
    return [f"{index // BUCKET * BUCKET:05d}/{index:05d}.png" for index in range(count)]


@dataclass(frozen=True, kw_only=True)
class FFHQ(PublicOnly):
    """FFHQ by its own numbering: the order is that of the released list, whatever files are there.

    Raises:
        MibenchError: the folder or pictures are missing, or a setting is out of range.
    """

    name: ClassVar[str] = "ffhq"

    root: str = ""  # folder; empty: $MIBENCH_DATA/ffhq
    variant: Literal["thumbnails128x128", "images1024x1024"] = "thumbnails128x128"
    crop: int | None = 88  # released (KEDMI): the middle 88 of 128 pixels; 8 times that of 1024; null: none
    images: int = 0  # pictures 0 to images - 1; 0: up to the highest number that is there
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        if not 0 <= self.images <= IMAGES:
            raise MibenchError(f"ffhq: images must lie in [0, {IMAGES}], got {self.images}")
        if self.crop is not None and not 1 <= self.crop <= THUMBNAIL:
            raise MibenchError(f"ffhq: crop is in pixels of a 128-pixel thumbnail, 1 to 128, got {self.crop}")
        require(self.name, self.folder, self.inspect(self.folder, {"variant": self.variant}))
        if not self.rows("public"):
            raise MibenchError(f"{self.folder / self.variant} holds no 00000.png or the like", cure="unpack FFHQ there")

    @property
    def framing(self) -> Framing:
        """The centre crop, scaled to the variant; every picture has the variant's size."""
        side = SIDES[self.variant]
        return Framing(crop=None if self.crop is None else self.crop * side // THUMBNAIL, expected=(side, side))

    def listed(self) -> Sequence[str]:
        """``00000/00000.png`` and so on, below the variant's folder: a gap is noticed, it never moves the others."""
        count = self.images or 1 + max((int(Path(name).stem) for name in self._files), default=-1)
        rows = [Row(f"{self.variant}/{name}", -1, "") for name in numbered(count)]
        present = (Path(row.name).name in self._files for row in rows)
        return [row.name for row in without_missing(rows, present, self.missing, f"{self.folder / self.variant}")]

    def picture(self, row: Row) -> Picture:
        """In its inner folder, or beside the others where a copy has no inner folders."""
        return Picture(self._files[Path(row.name).name])

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """The variant's folder."""
        variant = str(settings.get("variant", "thumbnails128x128"))
        yield from expect_folder(folder, variant, "00000/00000.png ... 69000/69999.png")

    def details(self) -> dict[str, object]:
        """Copies with and without inner folders are the same data set."""
        return {"variant": self.variant}

    def remarks(self) -> Iterator[Finding]:
        """Whether all of FFHQ is there."""
        if (count := len(self.rows("public"))) != IMAGES:
            yield Finding("note", f"{count:,} of FFHQ's {IMAGES:,} images", "unpack the rest")

    @cached_property
    def _files(self) -> dict[str, Path]:
        """``00000.png`` -> file, of every picture there is; numbers are unique in FFHQ."""
        top = self.folder / self.variant
        files: dict[str, Path] = {}
        for folder in (top, *(Path(entry.path) for entry in entries(top) if kind_of(entry) == "folder")):
            files |= {entry.name: folder / entry.name for entry in entries(folder) if NUMBERED.fullmatch(entry.name)}
        return files
