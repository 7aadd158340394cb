"""Which of the known layouts a folder of people has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mibench.data.class_folders import Passed, pictures_in, subfolders
from mibench.errors import MibenchError

PAIRS = (("private_train", "private_test"), ("train", "test"), ("train", "val"))


@dataclass(frozen=True)
class Layout:
    """Where the parts lie. ``test`` is None where test images are held out by file name."""

    title: str
    train: Path
    test: Path | None
    public: Path | None


def layout_of(root: Path) -> Layout:
    """Look at the names below ``root``.

    Raises:
        MibenchError: half of a layout, or no folder at all.
    """
    folders = subfolders(root, Passed())
    public = root / "public" if "public" in folders else None
    if "private" in folders:
        inner = layout_of(root / "private")
        return Layout(f"private/ with {inner.title}", inner.train, inner.test, public or inner.public)
    for train, test in PAIRS:
        if train in folders and test in folders:
            return Layout(f"{train}/ and {test}/", root / train, root / test, public)
    for half in ("private_train", "private_test", "train"):
        if half in folders and subfolders(root / half, Passed()):
            other = {"private_train": "private_test", "private_test": "private_train", "train": "test"}[half]
            raise MibenchError(
                f"{root} has {half}/ but no {other}/; add it, or take {half}/ alone (test images are then held out by "
                f"file name): --set dataset.root={root / half}"
            )
    if not [name for name in folders if name != "public"]:
        loose = len(pictures_in(root, Passed()))
        what = f"{loose:,} images but no folder" if loose else "no folder"
        raise MibenchError(f"{root} has {what}; put the images of each person into a folder of their own")
    return Layout("one folder a person", root, None, public)
