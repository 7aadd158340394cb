"""An auditor's own data: one folder a person. Below ``root``, one of::

    <person>/*                                          test images are held out by file name
    train/<person>/*  test/<person>/*                   (or val/)
    private_train/<label>/*  private_test/<label>/*     as other suites lay their data out
    private/<any of the above>  public/...

with public images in ``public/`` beside them, or in ``public_root``: pictures in it, or one folder a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mibench.data.checks import Finding, expect_folder, require
from mibench.data.datasets.class_folders import Passed, hold_out, name_some, pictures_in, subfolders
from mibench.data.datasets.class_order import Order, class_order
from mibench.data.datasets.folder_layout import Layout, layout_of, no_pictures, no_public_pictures
from mibench.data.datasets.public_source import public_source
from mibench.data.directory_listing import is_file, is_folder, real
from mibench.data.duplicate_files import copies
from mibench.data.files import FileSplit, folder_of
from mibench.data.identity_names import alike, alike_but_for_case, both_spellings, composed, matched, normalised_name
from mibench.data.images import Framing, Picture
from mibench.data.rows import Role, Row
from mibench.data.split import Images
from mibench.errors import MibenchError

if TYPE_CHECKING:
    from mibench.data.split import IdentitySplit

SALT = "folder 1"


@dataclass(frozen=True, kw_only=True)
class Folder(FileSplit):
    """People by folders. Nobody can be private and public: neither by name of the folder nor by content of a file.

    Raises:
        MibenchError: the folder has no known layout, class indices are in doubt, somebody has too few images.
    """

    name: ClassVar[str] = "folder"
    protocol: ClassVar[str] = "audit"

    root: str = ""  # folder; empty: $MIBENCH_DATA/folder
    labels: Order = "names"  # names: 7 is class 7, other names are sorted; sorted; imagefolder: as torchvision sorts
    classes: str = ""  # text file with a name a line, in the order of the model's classes; below root or anywhere
    test_share: float = 0.2  # of each person's images, where the layout has no test folder
    crop: int | None = None  # centre crop in pixels of the file
    square: Literal["squash", "cover"] = "squash"  # how a picture that is not square becomes one
    public_from: Literal["own", "none", "ffhq", "metfaces", "afhq"] = "own"  # own: public/ or public_root, if any
    public_root: str = ""  # folder of the public images

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise MibenchError(f"folder: test_share must lie between 0 and 1, got {self.test_share}")
        require(self.name, self.folder, self.inspect(self.folder, {}))
        for role in ("train", "public"):
            self.rows(role)
        if self.public_from not in ("own", "none"):
            _ = self.public_source

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The folder of each class."""
        names = subfolders(self.layout.train, self._passed)
        _ = self._in_test
        others = {real(folder) for folder in (self._public_folder, self.layout.public) if folder is not None}
        real_paths = {name: real(self.layout.train / name) for name in names}
        people = [name for name in names if real_paths[name] not in others]
        seen = Counter(real_paths.values())
        if twice := [name for name in people if seen[real_paths[name]] > 1]:
            raise MibenchError(f"{name_some(twice)} are links to one folder", cure="remove one: a person is one class")
        if twins := alike(people):
            raise MibenchError(
                f"{self.layout.train} has two folders {both_spellings(*twins[0])}",
                cure="join them: a person is one class",
            )
        return class_order(people, self.labels, self._listed)

    @cached_property
    def layout(self) -> Layout:
        """Which of the layouts this is."""
        return layout_of(self.folder)

    @property
    def has_test_set(self) -> bool:
        """Whether there is a folder of test images."""
        return self.layout.test is not None

    @property
    def framing(self) -> Framing:
        """As the settings say."""
        return Framing(crop=self.crop, square=self.square)

    def rows(self, role: Role) -> Sequence[Row]:
        """By class, and within a class by file name."""
        return self._public_rows if role == "public" else self._dealt[role]

    def picture(self, row: Row) -> Picture:
        """Public pictures may lie in a folder of their own."""
        if row.label >= 0 or self._public_folder is None:
            return Picture(self.folder / row.name)
        return Picture(self._public_folder / row.name.removeprefix("public/"))

    def details(self) -> dict[str, object]:
        """The order of the classes."""
        return {"classes": [composed(name) for name in self.class_names]}

    @cached_property
    def public_source(self) -> IdentitySplit | None:
        """Another data set, where one was asked for."""
        return None if self.public_from in ("own", "none") else public_source(self.public_from, self.public_root)

    def public(self, size: int, count: int | None = None) -> Images:
        """Public images, if there are any."""
        if count != 0 and not self.public_count():
            raise MibenchError(
                f"{self.folder} has no public images",
                cure=(
                    f"put some of other people in {self.folder / 'public'}, name a folder with --set "
                    "dataset.public_root=FOLDER, or take a data set's: --set dataset.public_from=ffhq"
                ),
            )
        return super().public(size, count)

    def check_disjoint(self) -> None:
        """By names of people and by contents of files."""
        super().check_disjoint()
        if both := self._copies("public", "train", "test"):
            raise MibenchError(
                f"{len(both)} public files of {self.folder} are copies of private ones (first: {both[0][0]} and "
                f"{both[0][1]})",
                cure="remove them: results mean nothing with shared pictures",
            )

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """The folder itself; its layout is read when the split is made."""
        del settings
        yield from expect_folder(folder.parent, folder.name, "a folder for each person")

    def remarks(self) -> Iterator[Finding]:
        """The layout, how classes are numbered, copies of files, and what was passed over."""
        yield Finding("fine", f"layout: {self.layout.title}; public images: {self._public_title()}")
        first = ", ".join(f"{label} is {name!r}" for label, name in enumerate(self.class_names[:3]))
        yield Finding("note", f"class {first}", "compare with the order in which your model was trained")
        if both := self._copies("public", "train", "test"):
            yield Finding(
                "wrong", f"{len(both):,} public files are copies of private ones (first: {both[0][0]})", "remove them"
            )
        if both := self._copies("test", "train"):
            yield Finding(
                "note",
                f"{len(both):,} test files are copies of train files (first: {both[0][0]} and {both[0][1]})",
                "remove them: they make accuracies look better than they are",
            )
        for line in self.unused():
            yield Finding("note", line)

    def unused(self) -> list[str]:
        """Files that are not used, and names that were treated as one: a line each, for people."""
        train, test = self.layout.train.name, self.layout.test and self.layout.test.name
        lines = [
            f"one person is {both_spellings(name, other)}: in {train}/ and in {test}/"
            for name, other in self._in_test.items()
            if name != other
        ]
        for one, other in alike_but_for_case(self.class_names):
            lines.append(
                f"two people are called {both_spellings(one, other)}; join their folders if they are one person"
            )
        return [*lines, *self.layout.unused, *self._passed.lines()]

    def _public_title(self) -> str:
        if self.public_source is not None:
            return f"those of {self.public_source.name}"
        return "none" if self._public_folder is None else str(self._public_folder)

    def _copies(self, role: Role, *others: Role) -> list[tuple[str, str]]:
        def files(role: Role) -> list[Path]:
            return [self.picture(row).path for row in self.rows(role)]

        return copies(files(role), [file for other in others for file in files(other)])

    @cached_property
    def _in_test(self) -> Mapping[str, str]:
        """Name of each person in the train folder -> in the test folder, where it may be spelt in another way."""
        if self.layout.test is None:
            return {}
        train, test = (subfolders(folder, self._passed) for folder in (self.layout.train, self.layout.test))
        pairs = matched(train, test)
        if alone := sorted((set(train) - set(pairs)) | (set(test) - set(pairs.values()))):
            near = [
                name
                for name in (*train, *test)
                if name != alone[0] and normalised_name(name) == normalised_name(alone[0])
            ]
            why = f" ({both_spellings(alone[0], near[0])})" if near else ""
            raise MibenchError(
                f"{self.layout.train} and {self.layout.test} do not hold the same people: {name_some(alone)} in one of "
                f"them only{why}; every class needs images to train and to test"
            )
        return pairs

    @cached_property
    def _listed(self) -> tuple[str, ...] | None:
        """The names in the file of classes."""
        if not self.classes:
            return None
        below, named = self.folder / self.classes, Path(self.classes).expanduser()
        path = below if is_file(below) else named
        try:
            names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise MibenchError(f"cannot read the file of classes {path}: {reason}; expected one name a line") from error
        return names

    @cached_property
    def _passed(self) -> Passed:
        return Passed()

    @cached_property
    def _dealt(self) -> dict[Role, list[Row]]:
        dealt: dict[Role, list[Row]] = {"train": [], "test": []}
        for label, person in enumerate(self.class_names):
            train = self._of(self.layout.train, person, label, person)
            if self.layout.test is not None:
                dealt["train"] += train
                dealt["test"] += self._of(self.layout.test, self._in_test[person], label, person)
                continue
            if len(train) < 2:
                raise MibenchError(
                    f"{self.layout.train / person} has one image: a person needs two, to train and to test",
                    cure="add some, or remove the folder",
                )
            # by file name within the person's folder: the same files are held out wherever the data lies
            out = hold_out([f"{person}/{Path(row.name).name}" for row in train], self.test_share, SALT)
            for row in train:
                dealt["test" if f"{person}/{Path(row.name).name}" in out else "train"].append(row)
        return dealt

    def _of(self, top: Path, name: str, label: int, person: str) -> list[Row]:
        """Rows of a folder below ``top``; ``person`` is what the folder is called where one trains."""
        folder = top / name
        files = pictures_in(folder, self._passed)
        if not files:
            raise no_pictures(folder, top)
        inner = folder.relative_to(self.folder).as_posix()
        return [Row(f"{inner}/{file}", label, f"folder-{composed(person)}") for file in files]

    @cached_property
    def _public_folder(self) -> Path | None:
        if self.public_from != "own":
            return None
        if self.public_root:
            folder = folder_of(self.name, self.public_root)
            if not is_folder(folder):
                raise MibenchError(
                    f"dataset.public_root={folder} is no folder", cure="name the one with the public images"
                )
            if real(folder) == real(self.folder):
                raise MibenchError("dataset.public_root is dataset.root: private images cannot be the public ones")
            return folder
        return self.layout.public

    @cached_property
    def _public_rows(self) -> list[Row]:
        """Pictures of the public folder, then those of its folders."""
        top = self._public_folder
        if top is None:
            return []
        passed = Passed()
        rows = [Row(f"public/{file}", -1, f"folder-public/{file}") for file in pictures_in(top, passed)]
        # where people are numbers on both sides, equal numbers do not mean equal people
        numbers = all(name.isdecimal() for name in self.class_names)
        for person in subfolders(top, passed):
            key = f"folder-{'public/' if numbers and person.isdecimal() else ''}{composed(person)}"
            rows += [Row(f"public/{person}/{file}", -1, key) for file in pictures_in(top / person, self._passed)]
        if not rows:
            raise no_public_pictures(top)
        return rows
