"""Which of the known layouts a folder of people has; what is there in one that is none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mibench.data.datasets.class_folders import UNREAD, Passed, name_some, pictures_in, subfolders
from mibench.data.directory_listing import entries, kind_of
from mibench.data.images import FORMATS
from mibench.data.root_setting import root_setting
from mibench.errors import MibenchError

PAIRS = (("private_train", "private_test"), ("train", "test"), ("train", "val"))
PARTS = ("private", "public", "private_train", "private_test", "train", "test", "val")
# what others call the parts; not taken for them unasked, because they may be names of people, too
OTHERWISE = {
    "training": "train",
    "testing": "test",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "test",
    "evaluation": "test",
}
DEEPEST, MOST = 4, 2000  # levels and folders that are looked through for pictures that lie elsewhere
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


@dataclass(frozen=True)
class Layout:
    """Where the parts lie.

    Attributes:
        title: for people.
        train: a folder with one folder a person.
        test: the same people; None where test images are held out by file name.
        public: the public images; None where there are none beside.
        unused: what is there and is not used, a line each.
    """

    title: str
    train: Path
    test: Path | None
    public: Path | None
    unused: tuple[str, ...] = ()


def layout_of(root: Path) -> Layout:
    """Look at the names below ``root``.

    Raises:
        MibenchError: half of a layout, parts under other names, or no folder at all.
    """
    folders = _folders(root)
    public = root / "public" if "public" in folders else None
    if "private" in folders:
        inner = layout_of(root / "private")
        unused = _unused(root, folders, ("private",), "private/")
        return Layout(
            f"private/ with {inner.title}", inner.train, inner.test, public or inner.public, unused + inner.unused
        )
    for train, test in PAIRS:
        if train in folders and test in folders:
            title = f"{train}/ and {test}/"
            unused = _unused(root, folders, (train, test), title)
            return Layout(title, root / train, root / test, public, unused)
    _check_names(root, folders)
    for half in ("private_train", "private_test", "train", "test", "val"):
        if half in folders and _holds_people(root / half):
            other = {"private_train": "private_test", "private_test": "private_train", "train": "test"}.get(
                half, "train"
            )
            raise MibenchError(
                f"{root} has {half}/ but no {other}/",
                cure=(
                    f"add it, or take {half}/ alone (test images are then held out by file name): --set "
                    f"{root_setting()}={root / half}"
                ),
            )
    if not [name for name in folders if name != "public"]:
        raise MibenchError(
            f"{root} has {_instead(root)}", cure="put the images of each person into a folder of their own"
        )
    return Layout("one folder a person", root, None, public)


def no_pictures(folder: Path, top: Path) -> MibenchError:
    """What is there in the place of pictures, for a folder that should be a person's and has none.

    Args:
        folder: of the person.
        top: the folder that holds one folder a person.
    """
    unread = _unread(folder)
    if unread:
        return MibenchError(
            f"{folder} has no image that is read ({', '.join(FORMATS)} are), but {unread}", cure="convert them to PNG"
        )
    below = _pictures_below(folder)
    if below is None:
        return MibenchError(f"{folder} has no image", cure="add some, or remove the folder")
    alone = [name for name in _folders(top) if name != "public"] == [folder.name]
    if alone or below.parent != folder:  # not the sessions of one person, it seems, but people
        return MibenchError(
            f"{folder} has no image itself, they lie deeper, inside {below} for one",
            cure=f"name the folder that holds one folder a person: {root_setting()}={below.parent}",
        )
    return MibenchError(
        f"{folder} has no image itself, they lie deeper, inside {below} for one",
        cure=(
            "move the images of a person into the person's own folder (or name the folder that holds one folder a "
            f"person: {root_setting()}={folder})"
        ),
    )


def no_public_pictures(folder: Path) -> MibenchError:
    """The same for the folder of public images, which has none itself nor in its folders."""
    unread = [what for what in (_unread(folder), *(_unread(folder / name) for name in _folders(folder))) if what]
    below = _pictures_below(folder)
    hint = f", but {unread[0]}, which are not read ({', '.join(FORMATS)} are)" if unread else ""
    hint = f"; some lie deeper, inside {below}" if below is not None and not hint else hint
    return MibenchError(
        f"{folder} has no image, neither itself nor in its folders{hint}", cure="add some, or remove it"
    )


def _folders(folder: Path) -> list[str]:
    return subfolders(folder, Passed())


def _check_names(root: Path, folders: Sequence[str]) -> None:
    """Refuse parts of a layout under other names: they would be people, and nobody would hear of it."""
    for name in folders:
        known = name.lower() if name.lower() in PARTS else OTHERWISE.get(name.lower())
        if known is None or known == name or known in folders:
            continue
        if known == "public" or _holds_people(root / name):
            case = "in lower case" if known == name.lower() else f"called {known}/"
            raise MibenchError(
                f"{root} has {name}/, which would be a person; the part of that name is written {case}",
                cure=f"rename it to {known}/ (or to a person's name, if it is one)",
            )


def _holds_people(folder: Path) -> bool:
    """Folders and no pictures: a part of a layout rather than a person."""
    return bool(_folders(folder)) and not pictures_in(folder, Passed())


def _unused(root: Path, folders: Sequence[str], used: Sequence[str], title: str) -> tuple[str, ...]:
    """Folders and pictures beside the parts of a layout."""
    unused = [name for name in folders if name not in (*used, "public")]
    lines = []
    if unused:
        hint = " (the public images are in public/, in lower case)" if "public" in map(str.lower, unused) else ""
        named = name_some(f"{name}/" for name in unused)
        lines.append(
            f"{named} {'is' if len(unused) == 1 else 'are'} not used{hint}: images are taken from {title} only"
        )
    if loose := pictures_in(root, Passed()):
        lines.append(f"{len(loose):,} images beside {title} are not used (first: {loose[0]})")
    return tuple(lines)


def _instead(root: Path) -> str:
    """What a folder holds that has no folder of a person."""
    loose = pictures_in(root, Passed())
    if loose:
        return f"{len(loose):,} images but no folder"
    packed = [entry.name for entry in entries(root) if entry.name.lower().endswith(ARCHIVES)]
    if packed:
        return f"no folder, but {name_some(packed)} (not unpacked)"
    unread = _unread(root)
    return f"no folder, and {unread}, which are not read" if unread else "no folder"


def _unread(folder: Path) -> str:
    """``4 .gif files``: pictures of kinds that are not read; empty where there are none."""
    kinds = Counter(Path(entry.name).suffix.lower() for entry in entries(folder) if kind_of(entry) == "file")
    return " and ".join(f"{kinds[suffix]:,} {suffix} files" for suffix in UNREAD if kinds[suffix])


def _pictures_below(folder: Path) -> Path | None:
    """The first folder below, level by level, that has pictures in it; links are not followed."""
    level, seen = [folder], 0
    for _ in range(DEEPEST):
        below = []
        for parent in level:
            for name in _folders(parent):
                inner = parent / name
                seen += 1
                if inner.is_symlink():
                    continue
                if pictures_in(inner, Passed()):
                    return inner
                if seen > MOST:
                    return None
                below.append(inner)
        level = below
    return None
