"""FaceScrub in the protocol of Plug & Play Attacks: 530 people, actors before actresses. Below ``root``::

actors/faces/<Name>/*.jpg (or .png)        square crops of any size
actresses/faces/<Name>/*                   also .../images/<Name>/*: uncropped
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mibench.data.checks import Finding, expect_folder, require
from mibench.data.datasets.class_folders import Passed, hold_out, name_some, pictures_in, released_shuffle, subfolders
from mibench.data.datasets.public_source import public_source, without_public
from mibench.data.files import FileSplit
from mibench.data.identity_names import alike, alike_but_for_case, both_spellings, composed
from mibench.data.images import Framing
from mibench.data.rows import Role, Row
from mibench.data.split import Images
from mibench.errors import MibenchError

if TYPE_CHECKING:
    from mibench.data.split import IdentitySplit

GROUPS = ("actors", "actresses")
PEOPLE = 530
HELD_OUT = 0.1
SALT = "facescrub 1"


@dataclass(frozen=True, kw_only=True)
class FaceScrub(FileSplit):
    """FaceScrub by its folders: actors by sorted name, then actresses.

    Many links of FaceScrub are dead, so no two copies hold the same files. ``split=hash`` deals out each file by its
    own name, so that two copies agree on all files that both have. ``split=released`` shuffles what is there, as the
    released code does: comparable with checkpoints of that very copy only.

    Raises:
        MibenchError: folders are missing, people are fewer or more than ``classes``, or somebody has one image.
    """

    name: ClassVar[str] = "facescrub"
    protocol: ClassVar[str] = "ppa"

    root: str = ""  # folder; empty: $MIBENCH_DATA/facescrub
    classes: int = PEOPLE  # how many people there must be: one missing folder moves all later labels; 0: any number
    pictures: Literal["faces", "images"] = "faces"  # released: the crops
    split: Literal["hash", "released"] = "hash"
    crop: int | None = None  # centre crop in pixels of the file; KEDMI: 54 of its 64-pixel crops, others none
    public_from: Literal["none", "ffhq", "metfaces"] = "none"  # released: none, only priors made of FFHQ or MetFaces
    public_root: str = ""  # folder of that data set; empty: its own place

    def __post_init__(self) -> None:
        require(self.name, self.folder, self.inspect(self.folder, {"pictures": self.pictures}))
        if self.classes and len(self.class_names) != self.classes:
            raise MibenchError(
                f"{self.folder} has {len(self.class_names)} people, expected {self.classes}: labels follow from "
                "the sorted names, so one folder more or less moves all later ones",
                cure=f"restore the folders, or say how many there are: --set dataset.classes={len(self.class_names)}",
            )
        if len({row.label for row in self.rows("train")}) != len(self.class_names):
            raise MibenchError(
                f"{self.folder} has too few images: some people have none to train on", cure="restore them"
            )
        if self.public_from != "none":
            _ = self.public_source

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The person of each class."""
        return tuple(name for _, name in self._people)

    @property
    def framing(self) -> Framing:
        """A resize to a square."""
        return Framing(crop=self.crop)

    def rows(self, role: Role) -> Sequence[Row]:
        """The private people's pictures; public ones come from elsewhere or not at all."""
        return () if role == "public" else self._dealt[role]

    def details(self) -> dict[str, object]:
        """How the pictures were dealt out."""
        return {"split": self.split}

    @cached_property
    def public_source(self) -> IdentitySplit | None:
        """FFHQ (the middle 800 of 1024 pixels) or MetFaces where they were asked for."""
        return public_source(self.public_from, self.public_root, portraits=True)

    def public(self, size: int, count: int | None = None) -> Images:
        """Those of the other data set."""
        if self.public_source is None and count != 0:
            raise without_public(self.name)
        return super().public(size, count)

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """Both groups."""
        for group in GROUPS:
            yield from expect_folder(folder, f"{group}/{settings.get('pictures', 'faces')}", "a folder for each person")

    def remarks(self) -> Iterator[Finding]:
        """How many people, and what was passed over."""
        yield Finding("fine", f"{self._groups['actors']} actors, then {self._groups['actresses']} actresses")
        if self.split == "released":
            yield Finding("note", "the released shuffle depends on every single file: another copy, another split")
        for line in self.unused():
            yield Finding("note", line)

    def unused(self) -> list[str]:
        """Files and folders that were passed over."""
        return self._passed.lines()

    @cached_property
    def _passed(self) -> Passed:
        return Passed()

    @cached_property
    def _groups(self) -> dict[str, int]:
        return {group: sum(person_group == group for person_group, _ in self._people) for group in GROUPS}

    @cached_property
    def _people(self) -> list[tuple[str, str]]:
        """(group, name) of each class, in the order of the classes."""
        people = [
            (group, name) for group in GROUPS for name in subfolders(self.folder / group / self.pictures, self._passed)
        ]
        names = [name for _, name in people]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise MibenchError(
                f"{name_some(twice)} stand among actors and actresses", cure="remove one of the two folders"
            )
        if twins := [*alike(names), *alike_but_for_case(names)]:
            raise MibenchError(
                f"{self.folder} has two folders {both_spellings(*twins[0])}", cure="join them: a person is one class"
            )
        return people

    @cached_property
    def _dealt(self) -> dict[str, list[Row]]:
        by_class = [self._of_person(label, *person) for label, person in enumerate(self._people)]
        everything = [row for rows in by_class for row in rows]
        if self.split == "released":
            train, test = released_shuffle(len(everything))
            return {"train": [everything[index] for index in train], "test": [everything[index] for index in test]}
        out = {name for rows in by_class for name in hold_out([row.name for row in rows], HELD_OUT, SALT)}
        return {
            "train": [row for row in everything if row.name not in out],
            "test": [row for row in everything if row.name in out],
        }

    def _of_person(self, label: int, group: str, name: str) -> list[Row]:
        inner = f"{group}/{self.pictures}/{name}"
        pictures = pictures_in(self.folder / inner, self._passed)
        if len(pictures) < 2:
            raise MibenchError(
                f"{self.folder / inner} has {len(pictures) or 'no'} image{('' if len(pictures) == 1 else 's')}: a "
                "class needs two, to train and to test",
                cure="restore the files (removing the folder would move all later labels)",
            )
        return [Row(f"{inner}/{file}", label, f"facescrub-{composed(name)}") for file in pictures]
