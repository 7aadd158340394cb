"""Data sets that lie on a disk: rows of listed pictures, from which a split follows without opening any."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mibench.data.checks import Finding, expect_folder
from mibench.data.fingerprint import Parts, parts_of
from mibench.data.identity_names import composed
from mibench.data.images import Framing, Picture
from mibench.data.pixels import load as load_pixels
from mibench.data.rows import Role, Row
from mibench.data.split import IdentitySplit, Images, Part
from mibench.errors import MibenchError
from mibench.system.paths import data_root

Missing = Literal["refuse", "skip"]


class FileSplit(IdentitySplit):
    """A split whose pictures are files. Subclasses are frozen dataclasses with a ``root`` and say what is listed.

    A subclass defines :meth:`rows` and :attr:`framing`; :meth:`picture`, :meth:`details`, :attr:`public_source`,
    :meth:`inspect` and :meth:`remarks` where the defaults do not fit. The settings that say where public images come
    from are called ``public_from`` (a field ``public`` would hide the method) and ``public_root``.
    """

    root: str  # folder; empty: $MIBENCH_DATA/<name>

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return folder_of(self.name, self.root)

    @abstractmethod
    def rows(self, role: Role) -> Sequence[Row]:
        """What is listed for a role, in the order of the list. Called often: cache it."""

    @property
    @abstractmethod
    def framing(self) -> Framing:
        """How the files become square images."""

    def picture(self, row: Row) -> Picture:
        """The file of a row."""
        return Picture(self.folder / row.name)

    def details(self) -> dict[str, object]:
        """What decides the images besides rows and framing (hashes of lists, formats, options): goes into the digest.

        Nothing of where the files lie: two copies of a data set have one digest.
        """
        return {}

    @property
    def public_source(self) -> IdentitySplit | None:
        """Another data set that gives the public images; None: they are the rows of role ``public``."""
        return None

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """What can be said of a folder before a split is made of it: parts that are there, missing or misplaced.

        Args:
            folder: where the data set should lie.
            settings: the settings that were given, unchecked; what is wanted may depend on them.
        """
        del cls, settings
        yield from expect_folder(folder.parent, folder.name, "the data set's folder")

    def unused(self) -> Sequence[str]:
        """What lies there and is not used, a line each, for people."""
        return ()

    def remarks(self) -> Iterator[Finding]:
        """What ``mibench data verify`` should add about a split that could be made: which lists, which formats."""
        yield from ()

    @cached_property
    def num_classes(self) -> int:
        """Private identities; 0 for a set that is public only."""
        return 1 + max((row.label for part in ("train", "test") for row in self.rows(part)), default=-1)

    def beside(self, row: Row) -> Path | None:
        """A file that decides an image besides its picture, such as an annotation; its content goes into the digest."""
        del row
        return None

    @cached_property
    def parts(self) -> Parts:
        """What the digest is made of. Every file is read, unless it was read before and has not changed since."""
        return parts_of(self)

    @property
    def digest(self) -> str:
        """By the contents of all files, names, labels and identities of all rows, framing and details.

        See :mod:`mibench.data.fingerprint`. Other pixels under the same names are another data set.
        """
        return self.parts.digest

    def private(self, part: Part, size: int, labels: Sequence[int] | None = None) -> Images:
        """Private images, ordered by class, then as listed."""
        rows = self._by_class[part]
        if not rows:
            raise MibenchError(f"{self.name} has no private {part} images: nobody can be attacked there")
        if labels is None:
            return self._load(rows, size, None)
        wanted = set(labels)
        # a class that a shuffle over everybody left without test images is no mistake of who asks
        if unknown := wanted - set(range(self.num_classes)):
            raise MibenchError(f"{self.name} has no class {min(unknown)} among its {part} images")
        return self._load(rows, size, [index for index, row in enumerate(rows) if row.label in wanted])

    def public(self, size: int, count: int | None = None) -> Images:
        """Public images, in the order of their list."""
        if self.public_source is not None:
            return self.public_source.public(size, count)
        rows = self.rows("public")
        if count is not None and count > len(rows):
            raise MibenchError(f"{self.name} has {len(rows)} public images, {count} were asked for")
        return self._load(rows, size, None if count is None else list(range(count)))

    def public_count(self) -> int:
        """By the lists; no image is opened."""
        return self.public_source.public_count() if self.public_source is not None else len(self.rows("public"))

    def people(self, side: Literal["private", "public"]) -> frozenset[str]:
        """Identities of one side, by the lists; no image is opened."""
        if side == "public" and self.public_source is not None:
            return self.public_source.people("public")
        roles: tuple[Role, ...] = ("public",) if side == "public" else ("train", "test")
        return frozenset(row.identity for role in roles for row in self.rows(role))

    def names_by_class(self, part: Part) -> dict[int, list[str]]:
        """Class -> names of its pictures below the root, in the order that :meth:`private` gives them in."""
        names: dict[int, list[str]] = {}
        for row in self._by_class[part]:
            names.setdefault(row.label, []).append(row.name)
        return names

    @cached_property
    def _by_class(self) -> dict[str, list[Row]]:
        roles: tuple[Role, ...] = ("train", "test")
        return {role: sorted(self.rows(role), key=lambda row: row.label) for role in roles}  # a stable sort

    def _load(self, rows: Sequence[Row], size: int, wanted: list[int] | None) -> Images:
        """Images of some rows of a whole list: parts of one list share one cache."""
        chosen = rows if wanted is None else [rows[index] for index in wanted]
        pixels = load_pixels([self.picture(row) for row in rows], size, self.framing, wanted)
        labels = torch.from_numpy(np.array([row.label for row in chosen], dtype=np.int64))
        return Images(pixels, labels, tuple(row.identity for row in chosen))


def folder_of(name: str, root: str) -> Path:
    """``root``, or the data set's place below ``$MIBENCH_DATA``."""
    try:
        return Path(root).expanduser() if root else data_root(name)
    except RuntimeError as error:
        raise MibenchError(f"{root}: {error}", cure="name the folder in full") from error


def held_out(name: str, share: float, salt: str) -> bool:
    """Whether a file belongs to the held-out part, by its name alone: a missing file moves no other.

    Args:
        name: the file's name as listed (:attr:`Row.name`).
        share: of the files, in [0, 1].
        salt: names the split, so that two splits of one data set are independent.
    """
    return int.from_bytes(name_hash(name, salt)[:8], "big") < share * 2.0**64


def name_hash(name: str, salt: str) -> bytes:
    """SHA-256 of a name in the one form of all that look the same: a copy of a data set may have another."""
    return hashlib.sha256(f"{salt}\0{composed(name)}".encode("utf-8", "surrogateescape")).digest()


def check_contiguous(rows: Iterable[Row], where: str) -> None:
    """Raise unless the labels are 0, 1, ..., C-1 with none left out: a class without images cannot be learnt."""
    labels = {row.label for row in rows}
    highest = max(labels, default=-1)
    if lacking := highest + 1 - len(labels):  # counted, not listed: a label may be any number
        first = next(label for label in range(highest) if label not in labels)
        raise MibenchError(
            f"{where}: labels go up to {highest} but {lacking} have no image (first: {first})",
            cure="number the classes 0, 1, 2 ... without gaps",
        )


def check_listed_once(listed: Mapping[Role, Sequence[Row]], where: str) -> None:
    """Raise when a picture stands in two lists, or twice in one: it would be learnt and then tested."""
    seen: dict[str, str] = {}
    for role, rows in listed.items():
        for row in rows:
            if row.name in seen:
                both = f"in the {seen[row.name]} and the {role} list"
                twice = f"twice in the {role} list" if seen[row.name] == role else both
                raise MibenchError(f"{where}: {row.name} stands {twice}", cure="correct the lists")
            seen[row.name] = role


def without_missing(rows: Sequence[Row], exists: Iterable[bool], missing: Missing, where: str) -> list[Row]:
    """The rows whose files exist.

    Raises:
        MibenchError: some do not, and ``missing`` is ``refuse``; the line counts them and names the first.
    """
    exist = list(exists)
    absent = [row for row, present in zip(rows, exist, strict=True) if not present]
    if absent and missing == "refuse":
        raise MibenchError(
            f"{where} lacks {len(absent)} of the {len(rows)} listed images (first: {absent[0].name})",
            cure=(
                "unpack the whole archive, or --set dataset.missing=skip to go without them (recorded, and the "
                "others keep their place)"
            ),
        )
    return [row for row, present in zip(rows, exist, strict=True) if present]
