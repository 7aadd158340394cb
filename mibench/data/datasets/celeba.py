"""CelebA in the 64-pixel protocol of the field: 1,000 private identities by pinned lists, 30,000 public images.

The images are not shipped and not fetched: they lie below ``root`` (``$MIBENCH_DATA/celeba`` by default)::

    img_align_celeba/000001.jpg ... 202599.jpg      aligned, 178 x 218 (or .png; which one is recorded)
    identity_CelebA.txt                             "000001.jpg 2880" a line
    meta/trainset.txt testset.txt ganset.txt        the protocol's lists (also celeba_* or private_train, private_test)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mibench.data.datasets.celeba_files import (
    FOLDERS,
    IDENTITIES,
    CelebAFiles,
    identity_of,
    inspect_images,
    is_number,
    needed,
    read_identities,
    read_lines,
    stem_of,
)
from mibench.data.datasets.celeba_split import Listed, rebuilt_split
from mibench.data.files import Missing, check_contiguous, check_listed_once
from mibench.data.images import Framing
from mibench.data.rows import ROLES, Role, Row
from mibench.errors import MibenchError

if TYPE_CHECKING:
    from mibench.data.checks import Finding
    from mibench.data.split import IdentitySplit

WIDTH, HEIGHT, CROP = 178, 218, 108  # the crop begins at (35, 55): a centre crop
FFHQ_CROP = 88  # of thumbnails of 128
FACESCRUB_CROP = 54  # of 64; the released stages do not agree: KEDMI crops, LOMMA and PLG-MI's generators do not
CLASSES, PUBLIC = 1000, 30_000

LISTS: dict[Role, tuple[tuple[str, ...], str]] = {
    # role: (accepted names, sha256 of the released list)
    "train": (
        ("trainset.txt", "celeba_trainset.txt", "private_train.txt"),
        "fd758026dab640c7217797f12e713436b23278087ffd2a70e88a7255259eabf7",
    ),
    "test": (
        ("testset.txt", "celeba_testset.txt", "private_test.txt"),
        "b67ef7f4770fa3606817392f01ae185f1534c38243987928ab881464cb09c434",
    ),
    "public": (
        ("ganset.txt", "celeba_ganset.txt", "public.txt"),
        "1c2173015bfb2951b117eeb766b4da310be9b82bddf8801b8b531bf80e6b8f49",
    ),
}


@dataclass(frozen=True, kw_only=True)
class CelebA(CelebAFiles):
    """CelebA by lists. Making one checks the layout, so that a missing file is reported before any work.

    Raises:
        MibenchError: files are missing (one line for all of them), lists are not the pinned ones or contradict
            themselves or the identity file.
    """

    name: ClassVar[str] = "celeba"
    protocol: ClassVar[str] = "celeba"

    root: str = ""  # folder; empty: $MIBENCH_DATA/celeba
    lists: Literal["pinned", "given", "rebuilt"] = "pinned"  # given, rebuilt: numbers compare with nobody's
    missing: Missing = "refuse"  # listed images without a file: refuse, or skip them
    public_from: Literal["own", "ffhq", "facescrub"] = "own"  # where the public images come from
    public_root: str = ""  # folder of that data set; empty: its own place
    public_crop: Literal["usual", "none"] = "usual"  # of public images from elsewhere: 88 of 128 (ffhq), 54 of 64
    classes: int = CLASSES  # private identities; rebuilt only
    public_images: int = PUBLIC  # at most; rebuilt only

    def __post_init__(self) -> None:
        from mibench.data.checks import require

        if self.lists != "rebuilt" and (self.classes, self.public_images) != (CLASSES, PUBLIC):
            raise MibenchError("celeba: classes and public_images follow from the lists, except with lists=rebuilt")
        settings = {"lists": self.lists, "public_from": self.public_from}
        require(self.name, self.folder, self.inspect(self.folder, settings))
        if self.lists == "pinned":
            for role in self._listed_roles:
                if self._released(role) is None:
                    raise MibenchError(
                        f"{self._list(role)} is not the released {role} list: sha256 {self._hash(role)}, "
                        f"expected {LISTS[role][1]}",
                        cure="restore it, or --set dataset.lists=given for your own lists (comparable with nobody's)",
                    )
        self._check()
        self.check_files()
        _ = self.public_source

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """Images, identity file, and the lists unless the split is rebuilt."""
        from mibench.data.checks import expect_file

        yield from inspect_images(folder, "000001.jpg ... 202599.jpg, aligned, 178x218")
        yield from expect_file(folder, IDENTITIES, "'000001.jpg 2880' a line")
        if settings.get("lists", "pinned") != "rebuilt":
            for role, (names, _) in LISTS.items():
                if role != "public" or settings.get("public_from", "own") == "own":
                    yield from expect_file(folder, _paths(names), f"{role} list")

    @property
    def framing(self) -> Framing:
        """Centre crop of 108, then the resize."""
        return Framing(crop=CROP, expected=(WIDTH, HEIGHT))

    def details(self) -> dict[str, object]:
        """Kind of split, format of the files, how many listed images are not there."""
        return {"split": "rebuilt" if self.lists == "rebuilt" else "listed", **super().details()}

    @cached_property
    def num_classes(self) -> int:
        """Private identities that are listed: 1,000 with the pinned lists."""
        return 1 + max(row.label for row in self.listed["train"])

    @cached_property
    def public_source(self) -> IdentitySplit | None:
        """FFHQ's thumbnails or FaceScrub's crops where they were asked for."""
        if self.public_from == "own":
            return None
        from mibench.data.datasets.facescrub import FaceScrub
        from mibench.data.datasets.ffhq import FFHQ
        from mibench.data.public_data import AllPublic
        from mibench.data.root_setting import public_settings

        cropped = self.public_crop == "usual"
        with public_settings():
            if self.public_from == "ffhq":
                return FFHQ(root=self.public_root, crop=FFHQ_CROP if cropped else None, missing=self.missing)
            framing = Framing(crop=FACESCRUB_CROP, expected=(64, 64)) if cropped else Framing()
            return AllPublic(FaceScrub(root=self.public_root, classes=0), framing)

    def remarks(self) -> Iterator[Finding]:
        """Which lists, which format, what was left out, and classes that the identity file does not support."""
        from mibench.data.checks import Finding

        if self.lists == "rebuilt":
            yield Finding("note", "split=rebuilt: made from the identity file; results compare with nobody's")
        for role in self._listed_roles:
            path = self._list(role)
            if form := self._released(role):
                yield Finding("fine", f"{path.name}: the released {role} list ({form}sha256 {LISTS[role][1][:12]}...)")
            else:
                yield Finding("note", f"{path.name}: not the released {role} list (sha256 {self._hash(role)[:12]}...)")
        yield from super().remarks()
        if self.lists == "pinned" and (doubt := _one_person_a_class(self.listed)):
            yield Finding("note", f"{doubt}, by the identity file", "compare identity_CelebA.txt with the released one")

    @property
    def _listed_roles(self) -> tuple[Role, ...]:
        """Roles that have a list."""
        if self.lists == "rebuilt":
            return ()
        return ROLES if self.public_from == "own" else ("train", "test")

    def _list(self, role: Role) -> Path:
        """The list of a role under any of its names, in ``meta/`` or beside it."""
        return needed(self.folder, _paths(LISTS[role][0]))

    def _hash(self, role: Role) -> str:
        path = self._list(role)
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise MibenchError(f"cannot read {path}: {error.strerror}", cure="restore it") from error

    def _released(self, role: Role) -> str | None:
        """How a list is the released one: ``""`` byte for byte, or the difference in form; None: it is another."""
        expected = LISTS[role][1]
        if self._hash(role) == expected:
            return ""
        kept = 1 if role == "public" else 2  # a public list may carry labels, which say nothing
        lines = ([f"{stem_of(name)}.jpg", *rest[: kept - 1]] for _, (name, *rest) in read_lines(self._list(role)))
        text = "\n".join(" ".join(fields) for fields in lines)  # KEDMI's own lists say .png
        same = any(hashlib.sha256(f"{text}{end}".encode()).hexdigest() == expected for end in ("\n", ""))
        return "in another form; " if same else None

    def _check(self) -> None:
        """Lists that contradict themselves or the identity file, however they came."""
        listed, where = self.listed, f"{self.name} at {self.folder}"
        if not listed["train"]:
            raise MibenchError(f"{self._list('train')} lists no image", cure="restore it")
        check_listed_once(listed, where)
        check_contiguous(listed["train"], where)
        if strange := {row.label for row in listed["test"]} - {row.label for row in listed["train"]}:
            raise MibenchError(
                f"{where}: class {min(strange)} of the test list has no train image", cure="correct the lists"
            )
        if self.lists == "given" and (doubt := _one_person_a_class(listed)):
            raise MibenchError(f"{where}: {doubt}, by the identity file", cure="correct the labels of the list")

    @cached_property
    def listed(self) -> Listed:
        """The lists, or the rebuilt split."""
        people, source = read_identities(self.folder), needed(self.folder, IDENTITIES)
        if self.lists == "rebuilt":
            made = rebuilt_split(people, classes=self.classes, public=self.public_images)
            return made if self.public_from == "own" else {**made, "public": []}
        listed: Listed = {role: [] for role in ROLES}
        for role in self._listed_roles:
            path = self._list(role)
            for number, fields in read_lines(path):
                if role != "public" and (len(fields) != 2 or not is_number(fields[1])):
                    raise MibenchError(
                        f"{path} line {number}: expected 'NNNNNN.jpg LABEL', got {' '.join(fields)[:80]!r}",
                        cure="correct it",
                    )
                label = -1 if role == "public" else int(fields[1])
                stem = stem_of(fields[0])
                listed[role].append(Row(f"{FOLDERS[0]}/{stem}.jpg", label, identity_of(people, stem, source)))
        return listed


def _paths(names: Sequence[str]) -> list[str]:
    return [f"{prefix}{name}" for prefix in ("meta/", "") for name in names]


def _one_person_a_class(listed: Listed) -> str:
    """What is wrong with the labels, or nothing: a class is one person, and a person one class."""
    people: dict[int, str] = {}
    classes: dict[str, int] = {}
    for role in ("train", "test"):
        for row in listed[role]:
            if people.setdefault(row.label, row.identity) != row.identity:
                return f"class {row.label} has two people, {people[row.label]} and {row.identity} ({row.name})"
            if classes.setdefault(row.identity, row.label) != row.label:
                return f"{row.identity} is in two classes, {classes[row.identity]} and {row.label} ({row.name})"
    return ""
