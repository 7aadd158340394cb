"""The catalogue of files that mibench knows: those it may fetch, and those a person must fetch, with instructions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath

from mibench.downloads.content_check import Kind
from mibench.errors import MibenchError, suggest
from mibench.system.canonical import JsonObject
from mibench.system.paths import data_root, home

LEAST_PREFIX = 8  # hex digits; torchvision's file names publish that many


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file that a program may fetch.

    Attributes:
        name: what ``mibench fetch`` is given.
        what: one line for people.
        urls: where it lies, tried in this order; https only.
        path: place below ``$MIBENCH_HOME/assets``, POSIX.
        kind: what its first bytes must say.
        licence: under which terms it comes.
        use: the command that uses it afterwards; ``{path}`` stands for the file. Empty: it is found by itself.
        sha256: of the file, lower-case hex: all 64 digits, or the first ones where only those are published, or empty
            where nothing is (then the first download is pinned).
        size: bytes, where the publisher says them.
    """

    name: str
    what: str
    urls: tuple[str, ...]
    path: str
    kind: Kind
    licence: str
    use: str = ""
    sha256: str = ""
    size: int | None = None

    @property
    def file(self) -> str:
        """The bare file name."""
        return PurePosixPath(self.path).name

    def path_in(self, folder: Path | None = None) -> Path:
        """Where the file lies: below ``$MIBENCH_HOME/assets``, or in ``folder``."""
        return assets_folder() / self.path if folder is None else folder / self.file

    @property
    def hash_in_words(self) -> str:
        """``sha256 6726...``, ``sha256 beginning f37072fd``, or that none is published."""
        if not self.sha256:
            return "no published sha256"
        return f"sha256 {self.sha256}" if len(self.sha256) == 64 else f"sha256 beginning {self.sha256}"


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """What a licence, a form or a personal drive keeps from a program.

    Attributes:
        name: what ``mibench fetch`` is given.
        what: one line for people.
        why: what stands in the way.
        where: the publisher's page.
        licence: under which terms it comes.
        files: what must lie in the place afterwards, POSIX; a folder ends in a slash.
        dataset: the data set whose folder is the place; empty: anywhere, the command that reads it takes its path.
        steps: what to do, in order; ``{place}`` stands for the folder.
        check: the command that checks it.
        brings: names of the cards that its steps make.
    """

    name: str
    what: str
    why: str
    where: str
    licence: str
    steps: tuple[str, ...]
    check: str
    files: tuple[str, ...] = ()
    dataset: str = ""
    brings: tuple[str, ...] = ()

    def path_in(self, folder: Path | None = None) -> Path | None:
        """The folder the files belong in; None when any will do."""
        if folder is not None:
            return folder
        return data_root(self.dataset) if self.dataset else None

    def present(self, folder: Path | None = None) -> bool:
        """Whether everything named in ``files`` is there; never without a list of files."""
        path = self.path_in(folder)
        return path is not None and bool(self.files) and all((path / name).exists() for name in self.files)

    def instructions(self, folder: Path | None = None) -> list[str]:
        """Where, which files, where to put them, which command checks them: a line each."""
        path = self.path_in(folder)
        named = str(path) if path is not None else "any folder"
        lines = [f"{self.name}: {self.what}", f"  not fetched by a program: {self.why}", f"  licence: {self.licence}"]
        lines.append(f"  from: {self.where}")
        lines += [f"  {number}. {step.format(place=named)}" for number, step in enumerate(self.steps, 1)]
        if self.files:
            lines.append(f"  afterwards {named} holds: {', '.join(self.files)}")
        return [*lines, f"  check: {self.check}"]


Known = Asset | ByHand


def assets_folder() -> Path:
    """``$MIBENCH_HOME/assets``."""
    return home() / "assets"


@cache
def catalogue() -> Mapping[str, Known]:
    """Name -> entry, in the order of the file ``catalogue.yaml``."""
    from mibench.settings import parse_yaml

    text = (resources.files("mibench.downloads") / "catalogue.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Mapping[str, JsonObject]] = parse_yaml(text, "catalogue.yaml")
    entries: dict[str, Known] = {}
    for name, fields in content["fetched"].items():
        entries[name] = Asset(name=name, **{**fields, "urls": tuple(fields["urls"])})
    for name, fields in content["by_hand"].items():
        tuples: JsonObject = {key: tuple(fields[key]) for key in ("steps", "files", "brings") if key in fields}
        entries[name] = ByHand(name=name, **{**fields, **tuples})
    return entries


def entry(name: str) -> Known:
    """The entry of a name, or of the name of its file.

    Raises:
        MibenchError: unknown, with the nearest known name.
    """
    known = catalogue()
    by_file = {item.file: item for item in known.values() if isinstance(item, Asset)}
    match = known.get(name) or by_file.get(name)
    if match is None:
        near = suggest(name, known)
        raise MibenchError(f"unknown file {name!r}{near} (`mibench fetch --list` shows all)")
    return match


def source_of(card: str) -> str | None:
    """The name that ``mibench fetch`` takes for the weights of a card; None when they are not in the catalogue."""
    if card in catalogue():
        return card
    by_hand = (item for item in catalogue().values() if isinstance(item, ByHand))
    return next((item.name for item in by_hand if card in item.brings), None)


def checked_sha256(text: str) -> str:
    """A sha256 that a person typed, in lower case.

    Raises:
        MibenchError: it is not one, nor a beginning of at least eight digits.
    """
    digits = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", digits):
        raise MibenchError(
            f"{text!r} is not a sha256", cure="give its 64 hexadecimal digits (or the first, at least eight)"
        )
    return digits
