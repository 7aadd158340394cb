"""What must lie where, and what a person reads when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.data.directory_listing import entries, is_file, is_folder, kind_of
from mibench.data.root_setting import root_setting
from mibench.downloads.catalogue import catalogue
from mibench.errors import MibenchError

Level = Literal["fine", "note", "wrong"]
ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".gz", ".rar", ".7z.001")


@dataclass(frozen=True)
class Finding:
    """One line about a data set.

    Attributes:
        level: ``fine``; ``note``: usable, but worth knowing; ``wrong``: the command exits with 2.
        what: what was found.
        cure: what to do about it; empty when there is nothing to do.
        missing: the part of the layout that is not where it should be; empty when that is not what is wrong.
    """

    level: Level
    what: str
    cure: str = ""
    missing: str = ""


def expect_folder(root: Path, name: str, holds: str) -> Iterator[Finding]:
    """One folder that a layout asks for.

    Args:
        root: where it should lie.
        name: its name; may have several parts.
        holds: what is in it, in words.
    """
    folder = root / name
    last = folder.name
    if is_folder(folder):
        inside = entries(folder)
        visible = [entry for entry in inside if not entry.name.startswith((".", "__MACOSX"))]
        if [entry.name for entry in visible] == [last] and kind_of(visible[0]) == "folder":
            yield Finding(
                "wrong", f"{name}/ lies one folder too deep, in {name}/{last}", f"move it up: {folder / last}"
            )
            return
        if not inside:
            yield Finding("wrong", f"{name}/ is empty ({holds})", f"unpack the images into {folder}")
            return
        yield Finding("fine", f"{name}/: {holds}")
        return
    yield _absent(root, name, holds, is_folder)


def expect_file(root: Path, names: str | Sequence[str], holds: str) -> Iterator[Finding]:
    """One file that a layout asks for, under any of its accepted names.

    Args:
        root: where it should lie.
        names: accepted names below ``root``, the usual one first.
        holds: what is in it, in words.
    """
    accepted = [names] if isinstance(names, str) else list(names)
    file = next((root / name for name in accepted if is_file(root / name)), None)
    if file is None:
        yield _absent(root, accepted[0], holds, is_file)
    elif file.stat().st_size == 0:
        yield Finding("wrong", f"{file} is empty ({holds})", "download it again")
    else:
        yield Finding("fine", f"{file.relative_to(root)}: {holds}")


def _absent(root: Path, name: str, holds: str, is_one: Callable[[Path], bool]) -> Finding:
    """A part that is not where it should be: perhaps packed, perhaps elsewhere near."""
    what = f"{name} is missing ({holds})"
    last = Path(name).name
    if not is_folder(root):
        return Finding("wrong", what, f"make {root} and put everything there, or name another folder with --root", name)
    stem = Path(last).stem if is_one is is_file else last
    near = sorted(path for path in {root, (root / name).parent} if is_folder(path))
    for folder in near:
        for packed in entries(folder):
            if packed.name.lower().startswith(stem.lower()) and packed.name.lower().endswith(ARCHIVES):
                return Finding("wrong", f"{what}; {packed.name} is not unpacked", f"unpack it in {root}", name)
    for pattern in (last, f"*/{last}", f"*/*/{last}"):
        for elsewhere in _matching(root, pattern):
            if is_one(elsewhere) and elsewhere != root / name:
                return Finding("wrong", f"{what}; it lies at {elsewhere}", f"move it to {root / name}", name)
    for entry in entries(root):
        if entry.name.lower() == last.lower() and is_one(Path(entry.path)):
            return Finding("wrong", f"{what}; {entry.name} differs in case", f"rename it to {last}", name)
    return Finding("wrong", what, f"put it at {root / name}", name)


def _matching(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except OSError:  # of some folder that is no part of the data set
        return []


def require(name: str, folder: Path, findings: Iterable[Finding]) -> None:
    """Raise when something is wrong: one line for all of it. For the making of a split, before any work."""
    wrong = [finding for finding in findings if finding.level == "wrong"]
    if wrong:
        what = "; ".join(finding.what for finding in wrong)
        cure = "; ".join(dict.fromkeys(finding.cure for finding in wrong if finding.cure))
        if not is_folder(folder):  # the names of the parts, without what each holds: one line that can be read
            what = f"no such folder; missing: {', '.join(finding.missing or finding.what for finding in wrong)}"
            cure = "make it and put them there"
        raise MibenchError(
            f"{name} is not complete at {folder}: {what}",
            cure=(
                f"{cure}; or name another folder with --set {root_setting()}=FOLDER or MIBENCH_DATA "
                f"({'`mibench fetch ' + name + '` says where it is, ' if name in catalogue() else ''}"
                f"`mibench data verify {name}` says more)"
            ),
        )
