"""What both CelebA protocols read: the folder of images, the identity and partition files, the protocol's lists."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.data.datasets.celeba_split import Listed
from mibench.data.directory_listing import entries, kind_of
from mibench.data.files import FileSplit, Missing, without_missing
from mibench.data.images import Picture
from mibench.data.rows import ROLES, Role, Row
from mibench.errors import MibenchError

if TYPE_CHECKING:
    from mibench.data.checks import Finding

FOLDERS = ("img_align_celeba", "Img/img_align_celeba", "img_align_celeba_png", "Img/img_align_celeba_png")
IDENTITIES = ("identity_CelebA.txt", "Anno/identity_CelebA.txt", "meta/identity_CelebA.txt")
PARTITION = ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "meta/list_eval_partition.txt")
LONGEST_NUMBER = 9  # digits
SUFFIXES = (".png", ".jpg")  # the last one wins: the release that the protocols were made from


class CelebAFiles(FileSplit):
    """What both protocols do with a listed split: find the files, and go without missing ones if told to."""

    missing: Missing

    @property
    @abstractmethod
    def listed(self) -> Listed:
        """What is listed, whether or not the files are there."""

    def rows(self, role: Role) -> Sequence[Row]:
        """Listed images that are there."""
        return self._present[role]

    def picture(self, row: Row) -> Picture:
        """The file whose stem is listed: a list may say .jpg where the files are .png."""
        return Picture(self._images / self._files[stem_of(row.name)])

    def _formats(self) -> list[str]:
        files = [self._files[stem_of(row.name)] for role in ROLES for row in self.rows(role)]
        return sorted({f".{file.rpartition('.')[2].lower()}" for file in files})

    def details(self) -> dict[str, object]:
        """Formats of the files (JPEG and PNG releases differ in pixels); how many listed images are not there."""
        return {"formats": self._formats(), "absent": len(self._absent)}

    def remarks(self) -> Iterator[Finding]:
        """Formats and what is left out."""
        from mibench.data.checks import Finding

        formats = self._formats()
        yield Finding("fine" if len(formats) == 1 else "note", f"format of the images: {' and '.join(formats)}")
        if self._absent:
            yield Finding("note", f"{len(self._absent):,} listed images are left out (first: {self._absent[0].name})")

    def check_files(self) -> None:
        """Raise when images are missing that may not be, or all that one could train on."""
        if not self.rows("train"):
            raise MibenchError(
                f"{needed(self.folder, FOLDERS)} has none of the train images", cure="unpack the archive there"
            )

    @cached_property
    def _present(self) -> Listed:
        rows = [row for role in ROLES for row in self.listed[role]]
        exists = [stem_of(row.name) in self._files for row in rows]
        kept = without_missing(rows, exists, self.missing, str(needed(self.folder, FOLDERS)))
        present = {row.name for row in kept}
        return {role: [row for row in self.listed[role] if row.name in present] for role in ROLES}

    @cached_property
    def _absent(self) -> list[Row]:
        present = {row.name for role in ROLES for row in self.rows(role)}
        return [row for role in ROLES for row in self.listed[role] if row.name not in present]

    @cached_property
    def _images(self) -> Path:
        return needed(self.folder, FOLDERS)

    @cached_property
    def _files(self) -> dict[str, str]:
        return image_files(self._images)


def first_of(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of several accepted names that is there."""
    return next((folder / name for name in names if kind_of(folder / name) != "nothing"), None)


def needed(folder: Path, names: Sequence[str]) -> Path:
    """Like :func:`first_of`, for what :meth:`inspect` has already found."""
    path = first_of(folder, names)
    if path is None:
        raise MibenchError(f"{folder / names[0]} is missing", cure="restore it")
    return path


def inspect_images(folder: Path, holds: str) -> Iterator[Finding]:
    """The folder of images under any of its names."""
    from mibench.data.checks import expect_folder

    image_folder = first_of(folder, FOLDERS)
    yield from expect_folder(
        folder, FOLDERS[0] if image_folder is None else image_folder.relative_to(folder).as_posix(), holds
    )


def image_files(folder: Path) -> dict[str, str]:
    """Stem -> file name of every image in a folder. Lists may say .jpg where the files are .png: stems tell who is who.

    Names, not paths: there are two hundred thousand, and making paths of all would take most of a command's start.
    """
    by_suffix: dict[str, dict[str, str]] = {suffix: {} for suffix in SUFFIXES}
    for entry in entries(folder):
        stem, _, suffix = entry.name.rpartition(".")
        files = by_suffix.get(f".{suffix.lower()}")
        if files is not None:
            files[stem] = entry.name
    return {stem: name for files in by_suffix.values() for stem, name in files.items()}


def stem_of(name: str) -> str:
    """``000001`` of ``000001.jpg`` or ``img_align_celeba/000001.jpg``."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.rpartition(".")[0] or last


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers (from 1) and fields of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise MibenchError(f"cannot read {path}: {reason}", cure="restore it") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if fields := line.split():
            yield number, fields


def is_number(text: str) -> bool:
    """Whether a field is a whole number of a length that people and labels have."""
    return text.isdecimal() and len(text) <= LONGEST_NUMBER


def read_numbers(path: Path, example: str) -> dict[str, int]:
    """``000001.jpg 2880`` a line: stem -> number, in the order of the file."""
    numbers: dict[str, int] = {}
    for number, fields in read_lines(path):
        if len(fields) != 2 or not is_number(fields[1]):
            raise MibenchError(
                f"{path} line {number}: expected '{example}', got {' '.join(fields)[:80]!r}", cure="restore the file"
            )
        stem = stem_of(fields[0])
        if stem in numbers:
            raise MibenchError(f"{path} line {number}: {fields[0]} stands there twice", cure="restore the file")
        numbers[stem] = int(fields[1])
    if not numbers:
        raise MibenchError(f"{path} is empty", cure="restore it")
    return numbers


def read_identities(folder: Path) -> dict[str, int]:
    """Stem -> identity number of every image of the release."""
    return read_numbers(needed(folder, IDENTITIES), "000001.jpg 2880")


def identity_of(people: Mapping[str, int], stem: str, source: Path) -> str:
    """The key of the person on an image."""
    if stem not in people:
        raise MibenchError(f"{source} names no identity for {stem}.jpg", cure="restore the file")
    return f"celeba-{people[stem]}"
