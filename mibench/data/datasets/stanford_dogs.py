"""Stanford Dogs in the protocol of Plug & Play Attacks: 120 breeds instead of faces. Below ``root``::

    Images/n02085620-Chihuahua/n02085620_10074.jpg
    Annotation/n02085620-Chihuahua/n02085620_10074        XML, with a box for each dog
    train_list.mat  test_list.mat                         names, and labels from 1

The official split is ignored, as in the released code: both lists, one after the other, shuffled by numpy with seed 42,
nine tenths for training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Literal

from mibench.data.checks import Finding, expect_file, expect_folder, require
from mibench.data.datasets.class_folders import released_shuffle
from mibench.data.datasets.public_source import public_source, without_public
from mibench.data.directory_listing import entries, is_folder
from mibench.data.files import FileSplit, Missing, check_listed_once, without_missing
from mibench.data.formats.matlab import read_list
from mibench.data.formats.voc_xml import first_box
from mibench.data.images import Framing, Picture
from mibench.data.rows import Role, Row
from mibench.data.split import Images
from mibench.errors import MibenchError

if TYPE_CHECKING:
    from mibench.data.split import IdentitySplit

PICTURES, ANNOTATIONS = "Images", "Annotation"
LISTS = ("train_list.mat", "test_list.mat")  # in the order in which the released code joins them
BREEDS = 120


@dataclass(frozen=True, kw_only=True)
class StanfordDogs(FileSplit):
    """Stanford Dogs by its lists. Targets see whole pictures; judges and metrics see the dog alone (``cropped``).

    Raises:
        MibenchError: files are missing, or the lists contradict themselves or the folders.
    """

    name: ClassVar[str] = "stanford_dogs"
    protocol: ClassVar[str] = "ppa-dogs"

    root: str = ""  # folder; empty: $MIBENCH_DATA/stanford_dogs
    classes: int = BREEDS  # how many breeds the lists must have
    cropped: Literal["judge", "always", "never"] = "judge"  # released: the first box, for the judge and all metrics
    square: Literal["squash", "cover"] = "squash"  # how a picture that is not square becomes one
    missing: Missing = "refuse"  # listed pictures without a file: refuse, or skip them
    public_from: Literal["none", "afhq"] = "none"  # released: none, only priors made of AFHQ's dogs
    public_root: str = ""  # folder of that data set; empty: its own place

    def __post_init__(self) -> None:
        require(self.name, self.folder, self.inspect(self.folder, {"cropped": self.cropped}))
        if not self.rows("train"):
            raise MibenchError(
                f"{self.folder / PICTURES} has none of the listed pictures", cure="unpack images.tar there"
            )
        if len({row.label for row in self.rows("train")}) != self.classes:
            raise MibenchError(f"{self.folder / PICTURES} has no train pictures of some breeds", cure="restore them")
        if self.public_from != "none":
            _ = self.public_source

    def seen_by(self, kind: str) -> StanfordDogs:
        """Whole pictures for targets; with ``cropped=judge`` the first dog of each for judges and metrics."""
        if self.cropped == "judge" and kind == "judge":
            return dataclasses.replace(self, cropped="always")
        return self

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The breed of each class, without its number: ``Chihuahua``."""
        by_label = {row.label: PurePosixPath(row.name).parts[1] for row in self._listed}
        return tuple(by_label[label].partition("-")[2] for label in sorted(by_label))

    @property
    def framing(self) -> Framing:
        """A resize to a square, of the whole picture or of the box."""
        return Framing(square=self.square)

    def rows(self, role: Role) -> Sequence[Row]:
        """Listed pictures that are there; public ones come from elsewhere or not at all."""
        return () if role == "public" else self._present[role]

    def picture(self, row: Row) -> Picture:
        """The whole file, or its first box."""
        return Picture(self.folder / row.name, self._boxes[row.name] if self.cropped == "always" else None)

    def beside(self, row: Row) -> Path | None:
        """The annotation, unless nobody sees boxes."""
        return None if self.cropped == "never" else self._annotation(row)

    def details(self) -> dict[str, object]:
        """Which networks see the dog alone."""
        return {"cropped": self.cropped}

    @cached_property
    def num_classes(self) -> int:
        """Breeds in the lists."""
        return self.classes

    @cached_property
    def public_source(self) -> IdentitySplit | None:
        """AFHQ's dogs where they were asked for."""
        return public_source(self.public_from, self.public_root)

    def public(self, size: int, count: int | None = None) -> Images:
        """Those of the other data set."""
        if self.public_source is None and count != 0:
            raise without_public(self.name)
        return super().public(size, count)

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """Pictures, lists and, unless nobody sees boxes, annotations."""
        yield from expect_folder(folder, PICTURES, "a folder for each breed")
        if settings.get("cropped", "judge") != "never":
            yield from expect_folder(folder, ANNOTATIONS, "XML with the boxes of the dogs")
        for name in LISTS:
            yield from expect_file(folder, name, "names and labels")

    def remarks(self) -> Iterator[Finding]:
        """The numbers of the released split, the annotations, what is not there."""
        train, test = (len(self._dealt[part]) for part in ("train", "test"))
        yield Finding("fine", f"{train:,} train and {test:,} test pictures are listed")
        absent = train + test - sum(len(rows) for rows in self._present.values())
        if absent:
            yield Finding("note", f"{absent:,} listed pictures are left out")
        if self.cropped != "never":
            yield Finding("fine", f"{len(self._boxes):,} pictures have a box; only the first box of each is used")

    @cached_property
    def _boxes(self) -> dict[str, tuple[int, int, int, int]]:
        """Name -> first box of every picture that is there."""
        boxes = {}
        for role in self._present:
            for row in self._present[role]:
                boxes[row.name] = first_box(self._annotation(row))
        return boxes

    def _annotation(self, row: Row) -> Path:
        _, breed, file = PurePosixPath(row.name).parts
        return self.folder / ANNOTATIONS / breed / PurePosixPath(file).stem

    @cached_property
    def _present(self) -> dict[Role, list[Row]]:
        """The split, without the pictures that are not there: they move no others."""
        rows_of_role: dict[Role, list[Row]] = {}
        folders: dict[str, set[str]] = {}
        everything = [row for rows in self._dealt.values() for row in rows]
        for row in everything:
            _, breed, _ = PurePosixPath(row.name).parts
            if breed not in folders:
                breed_folder = self.folder / PICTURES / breed
                folders[breed] = {entry.name for entry in entries(breed_folder)} if is_folder(breed_folder) else set()
        exists = [PurePosixPath(row.name).name in folders[PurePosixPath(row.name).parts[1]] for row in everything]
        kept = {row.name for row in without_missing(everything, exists, self.missing, str(self.folder / PICTURES))}
        for role, rows in self._dealt.items():
            rows_of_role[role] = [row for row in rows if row.name in kept]
        return rows_of_role

    @cached_property
    def _dealt(self) -> dict[Role, list[Row]]:
        """The split of everything that is listed."""
        train, test = released_shuffle(len(self._listed))
        rows = self._listed
        return {"train": [rows[index] for index in train], "test": [rows[index] for index in test]}

    @cached_property
    def _listed(self) -> list[Row]:
        """Both lists, checked against themselves."""
        rows: list[Row] = []
        for file in LISTS:
            path = self.folder / file
            for name, label in read_list(path):
                parts = PurePosixPath(name).parts
                if len(parts) != 2 or ".." in parts or parts[0] == "/" or "\\" in name or "\0" in name:
                    raise MibenchError(
                        f"{path}: expected 'breed/file.jpg', got {name[:80]!r}", cure="restore the released file"
                    )
                if not 1 <= label <= self.classes:
                    raise MibenchError(
                        f"{path}: {name} has label {label}, labels run from 1 to {self.classes}",
                        cure=(
                            "restore the released file, or say how many breeds the lists have: --set dataset.classes=N"
                        ),
                    )
                rows.append(Row(f"{PICTURES}/{name}", label - 1, f"stanford_dogs-{parts[0]}"))
        where = f"{self.folder / LISTS[0]} and {LISTS[1]}"
        check_listed_once({"train": rows}, where)
        by_label: dict[int, str] = {}
        for row in rows:
            if by_label.setdefault(row.label, row.identity) != row.identity:
                raise MibenchError(
                    f"{where}: label {row.label + 1} stands for {by_label[row.label].partition('-')[2]} and for "
                    f"{row.identity.partition('-')[2]}",
                    cure="restore the released files",
                )
        if len(by_label) != self.classes or len(set(by_label.values())) != self.classes:
            raise MibenchError(
                f"{where} have {len(set(by_label.values()))} breeds, expected {self.classes}",
                cure=f"restore the released files, or --set dataset.classes={len(by_label)}",
            )
        return rows
