"""CelebA in the 64-pixel protocol of the field: 1,000 private identities by pinned lists, 30,000 public images.

The images are not shipped and not fetched: they lie below ``root`` (``$MIBENCH_DATA/celeba`` by default)::

    img_align_celeba/000001.jpg ... 202599.jpg      aligned, 178 x 218 (or .png; record which)
    identity_CelebA.txt                             "000001.jpg 2880" a line
    meta/trainset.txt testset.txt ganset.txt        the protocol's lists (also celeba_* or private_train, private_test)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mibench.api import MibenchError
from mibench.data.split import IdentitySplit, Images, Part
from mibench.home import data_root

FOLDER = "img_align_celeba"
IDENTITIES = "identity_CelebA.txt"
WIDTH, HEIGHT, CROP = 178, 218, 108
LEFT, TOP = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2  # 35 and 55: a centre crop

LISTS: dict[str, tuple[tuple[str, ...], str]] = {
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
class CelebA(IdentitySplit):
    """CelebA by lists. Making one checks the layout, so that a missing file is reported before any work.

    Raises:
        MibenchError: files are missing (one line for all of them), or lists are not the pinned ones.
    """

    name: ClassVar[str] = "celeba"
    protocol: ClassVar[str] = "celeba"

    root: str = ""  # folder; empty: $MIBENCH_DATA/celeba
    lists: Literal["pinned", "given"] = "pinned"  # given: lists of your own; numbers compare with nobody's

    def __post_init__(self) -> None:
        wanted = []
        if not (self.folder / FOLDER).is_dir():
            wanted.append(f"{FOLDER}/000001.jpg ... 202599.jpg (aligned images, 178x218)")
        if not (self.folder / IDENTITIES).is_file():
            wanted.append(f"{IDENTITIES} ('000001.jpg 2880' a line)")
        wanted += [f"meta/{names[0]} ({role} list)" for role, (names, _) in LISTS.items() if self._list(role) is None]
        if wanted:
            raise MibenchError(
                f"celeba is not complete at {self.folder}: missing {'; '.join(wanted)}. Put them there, or name "
                "another folder with --set dataset.root=FOLDER or MIBENCH_DATA"
            )
        if self.lists == "pinned":
            for role, (_, expected) in LISTS.items():
                if (got := self._hashes[role]) != expected:
                    raise MibenchError(
                        f"{self._list(role)} is not the released {role} list: sha256 {got}, expected {expected}; "
                        "restore it, or --set dataset.lists=given for your own lists (comparable with nobody's)"
                    )
        missing = [name for _, name, _ in self._everything if name not in self._files]
        if missing:
            raise MibenchError(
                f"{self.folder / FOLDER} lacks {len(missing)} of the {len(self._everything)} listed images (first: "
                f"{missing[0]}.jpg or .png); unpack the whole archive"
            )

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return Path(self.root).expanduser() if self.root else data_root(self.name)

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]
        """Private identities: 1,000 with the pinned lists."""
        return 1 + max(label for part, _, label in self._everything if part != "public")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over lists, identities, image format and crop; 16 digits. Pixels are not read."""
        formats = sorted({self._files[name].suffix for _, name, _ in self._everything})
        text = f"celeba 1 {sorted(self._hashes.items())} {self._identity_hash} {formats} crop {CROP}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def private(self, part: Part, size: int, labels: Sequence[int] | None = None) -> Images:
        """Private images, ordered by class, then as listed."""
        wanted = None if labels is None else set(labels)
        rows = [(label, name) for role, name, label in self._everything if role == part]
        if wanted is not None and (unknown := wanted - {label for label, _ in rows}):
            raise MibenchError(f"celeba has no class {min(unknown)} in its {part} list")
        rows = sorted((row for row in rows if wanted is None or row[0] in wanted), key=lambda row: row[0])
        return self._load([name for _, name in rows], torch.tensor([label for label, _ in rows]), size)

    def public(self, size: int, count: int | None = None) -> Images:
        """Public images in the order of their list."""
        names = [name for role, name, _ in self._everything if role == "public"]
        if count is not None and count > len(names):
            raise MibenchError(f"celeba has {len(names)} public images, {count} were asked for")
        names = names[:count]
        return self._load(names, torch.full((len(names),), -1, dtype=torch.int64), size)

    def people(self, side: Literal["private", "public"]) -> frozenset[str]:
        """Identities of one side, by the lists; no image is opened."""
        names = [name for role, name, _ in self._everything if (role == "public") == (side == "public")]
        return frozenset(self._keys(names))

    def _list(self, role: str) -> Path | None:
        """The list of a role under any of its names, in ``meta/`` or beside it."""
        names, _ = LISTS[role]
        places = (self.folder / "meta", self.folder)
        return next((place / name for place in places for name in names if (place / name).is_file()), None)

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {role: hashlib.sha256(self._path(role).read_bytes()).hexdigest() for role in LISTS}

    def _path(self, role: str) -> Path:
        path = self._list(role)
        if path is None:
            raise MibenchError(f"celeba lacks its {role} list at {self.folder / 'meta'}")
        return path

    @cached_property
    def _everything(self) -> list[tuple[str, str, int]]:
        """Role, stem of the file name and label (-1 for public images) of every listed image."""
        found = []
        for role in LISTS:
            path = self._path(role)
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                fields = line.split()
                if not fields:
                    continue
                if role != "public" and (len(fields) != 2 or not fields[1].isdigit()):
                    raise MibenchError(f"{path} line {number}: expected 'NNNNNN.jpg LABEL', got {line!r}")
                label = -1 if role == "public" else int(fields[1])
                found.append((role, Path(fields[0]).stem, label))
        if not any(role == "train" for role, _, _ in found):
            raise MibenchError(f"{self._path('train')} lists no image")
        return found

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Stem -> file of every image there is; .jpg wins over .png."""
        found: dict[str, Path] = {}
        for suffix in (".png", ".jpg"):
            found |= {path.stem: path for path in (self.folder / FOLDER).glob(f"*{suffix}")}
        return found

    @cached_property
    def _identity_hash(self) -> str:
        return hashlib.sha256((self.folder / IDENTITIES).read_bytes()).hexdigest()

    @cached_property
    def _people(self) -> dict[str, str]:
        """Stem -> identity number."""
        people = {}
        path = self.folder / IDENTITIES
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            fields = line.split()
            if len(fields) != 2:
                raise MibenchError(f"{path} line {number}: expected '000001.jpg 2880', got {line!r}")
            people[Path(fields[0]).stem] = fields[1]
        return people

    def _keys(self, names: Sequence[str]) -> tuple[str, ...]:
        if nameless := [name for name in names if name not in self._people]:
            raise MibenchError(f"{self.folder / IDENTITIES} names no identity for {nameless[0]}.jpg; restore the file")
        return tuple(f"celeba-{self._people[name]}" for name in names)

    def _load(self, names: Sequence[str], labels: Tensor, size: int) -> Images:
        pixels = torch.empty(len(names), 3, size, size, dtype=torch.uint8)
        for row, name in enumerate(names):
            pixels[row] = load_image(self._files[name], size)
        return Images(pixels, labels, self._keys(names))


def load_image(path: Path, size: int) -> Tensor:
    """One aligned image, uint8 ``(3, size, size)``: centre crop of 108, then PIL's bilinear resize.

    Raises:
        MibenchError: not an image, or not one of the aligned release.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise MibenchError(f"{path} cannot be read as an image; unpack the archive again") from error
    if image.size != (WIDTH, HEIGHT):
        raise MibenchError(f"{path} is {image.size[0]}x{image.size[1]}, the aligned images are {WIDTH}x{HEIGHT}")
    cropped = image.crop((LEFT, TOP, LEFT + CROP, TOP + CROP)).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)
