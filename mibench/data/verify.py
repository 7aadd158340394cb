"""``mibench data verify``: what of a data set is there, missing, misplaced or corrupt, and the cure.

A data set says what its folder should hold (:meth:`mibench.data.files.FileSplit.inspect`, made of :func:`expect_folder`
and :func:`expect_file`). When that is in order a split is made of it, as a run would, and its lists are counted, its
people compared, and with ``full`` every picture is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mibench.data.directory_listing import entries, is_file, is_folder, kind_of
from mibench.errors import MibenchError
from mibench.system.progress import Reporter

if TYPE_CHECKING:
    from mibench.data.files import FileSplit
    from mibench.data.split import IdentitySplit

Level = Literal["fine", "note", "wrong"]
ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".gz", ".rar", ".7z.001")
MISSING = " is missing ("
NAMED = 3  # bad pictures that are named; the rest are counted


@dataclass(frozen=True)
class Finding:
    """One line about a data set.

    Attributes:
        level: ``fine``; ``note``: usable, but worth knowing; ``wrong``: the command exits with 2.
        what: what was found.
        cure: what to do about it; empty when there is nothing to do.
    """

    level: Level
    what: str
    cure: str = ""


def expect_folder(root: Path, name: str, holds: str) -> Iterator[Finding]:
    """One folder that a layout asks for.

    Args:
        root: where it should lie.
        name: its name; may have several parts.
        holds: what is in it, in words.
    """
    place = root / name
    last = place.name
    if is_folder(place):
        inside = entries(place)
        visible = [entry for entry in inside if not entry.name.startswith((".", "__MACOSX"))]
        if [entry.name for entry in visible] == [last] and kind_of(visible[0]) == "folder":
            yield Finding("wrong", f"{name}/ lies one folder too deep, in {name}/{last}", f"move it up: {place / last}")
            return
        if not inside:
            yield Finding("wrong", f"{name}/ is empty ({holds})", f"unpack the images into {place}")
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
    found = next((root / name for name in accepted if is_file(root / name)), None)
    if found is None:
        yield _absent(root, accepted[0], holds, is_file)
    elif found.stat().st_size == 0:
        yield Finding("wrong", f"{found} is empty ({holds})", "download it again")
    else:
        yield Finding("fine", f"{found.relative_to(root)}: {holds}")


def _absent(root: Path, name: str, holds: str, is_one: Callable[[Path], bool]) -> Finding:
    """A part that is not where it should be: perhaps packed, perhaps elsewhere near."""
    what = f"{name}{MISSING}{holds})"
    last = Path(name).name
    if not is_folder(root):
        return Finding("wrong", what, f"make {root} and put everything there, or name another folder with --root")
    stem = Path(last).stem if is_one is is_file else last
    near = sorted(path for path in {root, (root / name).parent} if is_folder(path))
    for folder in near:
        for packed in entries(folder):
            if packed.name.lower().startswith(stem.lower()) and packed.name.lower().endswith(ARCHIVES):
                return Finding("wrong", f"{what}; {packed.name} is not unpacked", f"unpack it in {root}")
    for pattern in (last, f"*/{last}", f"*/*/{last}"):
        for elsewhere in _matching(root, pattern):
            if is_one(elsewhere) and elsewhere != root / name:
                return Finding("wrong", f"{what}; it lies at {elsewhere}", f"move it to {root / name}")
    for entry in entries(root):
        if entry.name.lower() == last.lower() and is_one(Path(entry.path)):
            return Finding("wrong", f"{what}; {entry.name} differs in case", f"rename it to {last}")
    return Finding("wrong", what, f"put it at {root / name}")


def _matching(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except OSError:  # of some folder that is no part of the data set
        return []


def require(name: str, folder: Path, findings: Iterable[Finding]) -> None:
    """Raise when something is wrong: one line for all of it. For the making of a split, before any work."""
    from mibench.downloads.catalogue import catalogue

    wrong = [finding for finding in findings if finding.level == "wrong"]
    if wrong:
        what = "; ".join(finding.what for finding in wrong)
        cure = "; ".join(dict.fromkeys(finding.cure for finding in wrong if finding.cure))
        if not is_folder(folder):  # the names of the parts, without what each holds: one line that can be read
            what = f"no such folder; missing: {', '.join(finding.what.partition(MISSING)[0] for finding in wrong)}"
            cure = "make it and put them there"
        raise MibenchError(
            f"{name} is not complete at {folder}: {what}. Cure: "
            f"{cure}; or name another folder with --set dataset.root=FOLDER or MIBENCH_DATA "
            f"({'`mibench fetch ' + name + '` says where it is, ' if name in catalogue() else ''}"
            f"`mibench data verify {name}` says more)"
        )


def verify(
    kind: type[IdentitySplit], settings: Mapping[str, Any], *, full: bool = False, reporter: Reporter | None = None
) -> list[Finding]:
    """Everything that can be said of a data set with these settings.

    Args:
        kind: its class.
        settings: of the data set, ``root`` among them.
        full: decode every picture.
        reporter: who hears of the progress.
    """
    from mibench.data.files import FileSplit, folder_of
    from mibench.settings import Layer, resolve

    findings: list[Finding] = []
    try:
        if issubclass(kind, FileSplit):
            findings += kind.inspect(folder_of(kind.name, str(settings.get("root", ""))), settings)
            if any(finding.level == "wrong" for finding in findings):
                return findings
        split, _ = resolve(kind, [Layer("--set", dict(settings))], scope="dataset")
        findings += _sides(split)
        if isinstance(split, FileSplit):
            findings += split.remarks()
            findings += _pictures(split, full, reporter or Reporter())
        else:
            findings.append(Finding("fine", "made on the spot: there are no files to look at"))
        if all(finding.level != "wrong" for finding in findings):
            findings.append(Finding("fine", f"digest of the contents: {split.digest}"))
    except MibenchError as error:
        findings.append(_as_finding(error))
    return findings


def _as_finding(error: MibenchError) -> Finding:
    what, _, cure = str(error).rpartition("; ")
    return Finding("wrong", what or cure, cure if what else "")


def _sides(split: IdentitySplit) -> Iterator[Finding]:
    """How many people there are on each side, and whether they are others."""
    from mibench.data.split import shared_people

    private, public = split.people("private"), split.people("public")
    yield Finding("fine", f"private: {split.num_classes:,} classes, {len(private):,} people; public: {len(public):,}")
    if shared := shared_people(split):
        yield Finding(
            "wrong",
            f"{len(shared):,} people are both private and public (first: {shared[0]})",
            "fix the lists: results mean nothing with shared people",
        )
    elif (source := getattr(split, "public_source", None)) is not None:
        yield Finding("note", f"the public people are those of {source.name}; nobody can check that they are others")
    elif private and public:
        yield Finding("fine", "nobody is on both sides")


def _pictures(split: FileSplit, full: bool, reporter: Reporter) -> Iterator[Finding]:
    """Count the pictures, and with ``full`` decode each, those of another data set that are public here included."""
    from mibench.data.files import ROLES, FileSplit
    from mibench.data.images import CHUNK, Picture, framed, in_parallel, read_rgb

    pictures: list[tuple[FileSplit, Picture]] = []
    for part in (split, split.public_source):
        if isinstance(part, FileSplit):
            for role in ROLES:
                rows = part.rows(role)
                pictures += [(part, part.picture(row)) for row in rows]
                if rows:
                    yield Finding(
                        "fine", f"{role}: {len(rows):,} images" + ("" if part is split else f" of {part.name}")
                    )
    if not full:
        yield Finding("note", "images were counted, not opened", "--full decodes every one")
        return

    def task(chunk: Sequence[tuple[FileSplit, Picture]]) -> list[str]:
        bad = []
        for part, picture in chunk:
            try:
                framed(read_rgb(picture.path, part.framing.expected), picture, part.framing)
            except MibenchError as error:
                bad.append(str(error))
        return bad

    bad: list[str] = []
    with reporter.aside(f"decoding {len(pictures):,} images") as progress:
        for number, found in enumerate(in_parallel(task, pictures, ahead=4096), start=1):
            bad += found
            progress.update(min(number * CHUNK, len(pictures)), len(pictures))
    for line in bad[:NAMED]:
        yield _as_finding(MibenchError(line))
    if len(bad) > NAMED:
        yield Finding("wrong", f"{len(bad) - NAMED:,} more images cannot be used", "replace them, or leave them out")
    if not bad:
        yield Finding("fine", f"all {len(pictures):,} images decode")
