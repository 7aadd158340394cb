"""AFHQ: animals' faces; its dogs are the public images of the published attacks on Stanford Dogs. Below ``root``::

train/{cat,dog,wild}/*.jpg (or .png)      512 pixels
val/<same>                                called test/ in the second version
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mibench.data.checks import Finding, expect_folder, require
from mibench.data.datasets.class_folders import Passed, pictures_in
from mibench.data.datasets.public_only import PublicOnly
from mibench.data.directory_listing import is_folder
from mibench.data.images import Framing
from mibench.errors import MibenchError

# train pictures of each animal: version 1, version 2
RELEASED = {"cat": (5153, 5065), "dog": (4739, 4678), "wild": (4738, 4593)}


@dataclass(frozen=True, kw_only=True)
class AFHQ(PublicOnly):
    """One animal of AFHQ, sorted by file name.

    Raises:
        MibenchError: the folder is missing or holds no picture.
    """

    name: ClassVar[str] = "afhq"

    root: str = ""  # folder; empty: $MIBENCH_DATA/afhq
    animal: Literal["dog", "cat", "wild"] = "dog"
    part: Literal["train", "val"] = "train"
    crop: int | None = None  # centre crop in pixels of the file; released: none

    def __post_init__(self) -> None:
        require(self.name, self.folder, self.inspect(self.folder, {"animal": self.animal, "part": self.part}))
        if not self.rows("public"):
            raise MibenchError(f"{self.folder / self._inner} holds no image", cure="unpack AFHQ there")

    @property
    def framing(self) -> Framing:
        """Square pictures, cropped where ``crop`` says so."""
        return Framing(crop=self.crop)

    def listed(self) -> Sequence[str]:
        """Everything in the animal's folder."""
        return [f"{self._inner}/{name}" for name in pictures_in(self.folder / self._inner, Passed())]

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """The animal's folder."""
        animal, part = str(settings.get("animal", "dog")), str(settings.get("part", "train"))
        yield from expect_folder(folder, _inner(folder, part, animal), f"{animal} faces, 512 pixels")

    def remarks(self) -> Iterator[Finding]:
        """Which version these are, by their number."""
        count = len(self.rows("public"))
        if self.part == "train" and count not in RELEASED[self.animal]:
            first, second = RELEASED[self.animal]
            yield Finding(
                "note",
                f"{count:,} train images of the kind {self.animal}, version 1 has {first:,} and version 2 {second:,}",
                "unpack the whole archive",
            )

    @property
    def _inner(self) -> str:
        return _inner(self.folder, self.part, self.animal)


def _inner(folder: Path, part: str, animal: str) -> str:
    """``train/dog``; the second version calls ``val`` ``test``."""
    if part == "val" and not is_folder(folder / "val") and is_folder(folder / "test"):
        part = "test"
    return f"{part}/{animal}"
