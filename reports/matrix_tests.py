"""The tests of a matrix of defences in words: what was compared with what, over how many people, with what outcome."""

from __future__ import annotations

from collections.abc import Sequence

from .matrix import DefenceDifference, Matrix
from .table_model import Kind, value_text


def reference_name(matrix: Matrix, group: str) -> str:
    """What tables call what the rows of a group are compared with: ``twin``, unless a reference was asked for."""
    names = {each.reference for each in matrix.differences if each.group == group}
    undefended = {row.label for row in matrix.rows if row.group == group and row.role == "undefended"}
    return "twin" if names <= undefended else names.pop() if len(names) == 1 else "reference"


def in_one_sentence(matrix: Matrix, group: str) -> str:
    """What is compared, over how many people, in how many tests, with what outcome, and what they could have seen."""
    ours = [each for each in matrix.differences if each.group == group]
    tested = [each for each in ours if each.p_holm is not None]
    beside = reference_name(matrix, group)
    if not tested:
        return f"No difference was tested: {_why_none(matrix, group, beside)}."
    names = sorted({each.reference for each in tested})
    whom = f"{names[0]}, the undefended twin," if len(names) == 1 and beside == "twin" else f"its {beside}"
    whom = names[0] if len(names) == 1 and beside == names[0] else whom
    metrics = [info for name, info in matrix.infos.items() if any(each.metric == name for each in tested)]
    people = sorted({each.estimate.n for each in tested})
    verdicts = [each.verdict for each in tested]
    outcome = ", ".join(
        f"{count} {words}"
        for words, count in (
            ("leak less", verdicts.count("leaks less")),
            ("leak more", verdicts.count("leaks more")),
            ("not told apart", verdicts.count(None)),
            ("not tested", len(ours) - len(tested)),
        )
        if count
    )
    return (
        f"Each row against {whom} under the same attack: {', '.join(info.title for info in metrics)}, paired over "
        f"{_from_to(people, 'count')} identities; p by sign flips, Holm over {matrix.family} tests, 5 %. Of "
        f"{len(ours)} differences: {outcome}. Smallest detectable difference: {_detectable(matrix, tested)}."
    )


def _why_none(matrix: Matrix, group: str, beside: str) -> str:
    rows = [row for row in matrix.rows if row.group == group]
    if any(each.group == group for each in matrix.differences):
        return "the last table says why"
    if set(matrix.attacks) == set(matrix.floors):
        return "no attack ran but the floor"
    if all(row.role == "undefended" for row in rows):
        return "no row is defended"
    if all(row.reference is None for row in rows):
        return f"no row has its {beside} among the runs"
    return f"no row and its {beside} were attacked alike, the notes say what is missing"


def _detectable(matrix: Matrix, tested: Sequence[DefenceDifference]) -> str:
    """``4.5 to 13.0 points``, for each metric."""
    texts = []
    for name, info in matrix.infos.items():
        known = [each.detectable for each in tested if each.metric == name and each.detectable is not None]
        if known:
            kind: Kind = "points" if info.percent else "number"
            texts.append(f"{info.title} {_from_to(known, kind)}" if len(matrix.infos) > 1 else _from_to(known, kind))
    return ", ".join(texts) or "not known"


def _from_to(values: Sequence[float], kind: Kind) -> str:
    first, last = (value_text(kind, value) for value in (min(values), max(values)))
    return last if first == last else f"{first.removesuffix(' points')} to {last}"
