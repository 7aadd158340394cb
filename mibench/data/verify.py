"""``mibench data verify``: what of a data set is there, missing, misplaced or corrupt, and the cure.

A data set says what its folder should hold (:meth:`mibench.data.files.FileSplit.inspect`, made of the checks in
:mod:`mibench.data.checks`). When that is in order a split is made of it, as a run would, and its lists are counted, its
people compared, and with ``full`` every picture is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mibench.data.checks import Finding
from mibench.data.files import FileSplit, folder_of
from mibench.data.images import CHUNK, Picture, framed, in_parallel, read_rgb
from mibench.data.rows import ROLES
from mibench.data.split import IdentitySplit, shared_people
from mibench.errors import MibenchError, Problem
from mibench.settings import Layer, resolve
from mibench.system.progress import Reporter

NAMED = 3  # bad pictures that are named; the rest are counted


def verify(
    kind: type[IdentitySplit], settings: Mapping[str, object], *, full: bool = False, reporter: Reporter | None = None
) -> list[Finding]:
    """Everything that can be said of a data set with these settings.

    Args:
        kind: its class.
        settings: of the data set, ``root`` among them.
        full: decode every picture.
        reporter: who hears of the progress.
    """

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
        findings += map(_as_finding, error.problems)
    return findings


def _as_finding(problem: Problem) -> Finding:
    return Finding("wrong", problem.cause, problem.cure or "")


def _sides(split: IdentitySplit) -> Iterator[Finding]:
    """How many people there are on each side, and whether they are others."""

    private, public = split.people("private"), split.people("public")
    yield Finding("fine", f"private: {split.num_classes:,} classes, {len(private):,} people; public: {len(public):,}")
    if shared := shared_people(split):
        yield Finding(
            "wrong",
            f"{len(shared):,} people are both private and public (first: {shared[0]})",
            "fix the lists: results mean nothing with shared people",
        )
    elif isinstance(split, FileSplit) and (source := split.public_source) is not None:
        yield Finding("note", f"the public people are those of {source.name}; nobody can check that they are others")
    elif private and public:
        yield Finding("fine", "nobody is on both sides")


def _pictures(split: FileSplit, full: bool, reporter: Reporter) -> Iterator[Finding]:
    """Count the pictures, and with ``full`` decode each, those of another data set that are public here included."""
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

    def task(chunk: Sequence[tuple[FileSplit, Picture]]) -> list[Problem]:
        bad: list[Problem] = []
        for part, picture in chunk:
            try:
                framed(read_rgb(picture.path, part.framing.expected), picture, part.framing)
            except MibenchError as error:
                bad += error.problems
        return bad

    bad: list[Problem] = []
    with reporter.aside(f"decoding {len(pictures):,} images") as progress:
        for number, finding in enumerate(in_parallel(task, pictures, ahead=4096), start=1):
            bad += finding
            progress.update(min(number * CHUNK, len(pictures)), len(pictures))
    yield from map(_as_finding, bad[:NAMED])
    if len(bad) > NAMED:
        yield Finding("wrong", f"{len(bad) - NAMED:,} more images cannot be used", "replace them, or leave them out")
    if not bad:
        yield Finding("fine", f"all {len(pictures):,} images decode")
