"""Names of people as a person reads them: one name may be written in several ways, and some systems change the way.

"é" is one character, or "e" and an accent, and looks the same: systems of Apple write the second form where others keep
what they were given. Upper and lower case are two names on some disks and one on others.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence


def composed(name: str) -> str:
    """The one form (NFC) of names that look the same. What is hashed is in this form, so that copies agree."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def normalised_name(name: str) -> str:
    """What two names have in common that differ at most in Unicode form and in upper and lower case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def both_spellings(one: str, other: str) -> str:
    """How two names differ that :func:`normalised_name` maps to one, both in full: what looks the same is escaped."""
    if composed(one) == composed(other):
        return f"{one!a} and {other!a}, which differ only in Unicode form"
    return f"{one!r} and {other!r}, which differ only in upper and lower case"


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that look the same (differ in Unicode form only)."""
    return _pairs(names, composed)


def alike_but_for_case(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that differ in upper and lower case only."""
    return [pair for pair in _pairs(names, normalised_name) if composed(pair[0]) != composed(pair[1])]


def _pairs(names: Iterable[str], key: Callable[[str], str]) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[key(name)].append(name)
    return [(group[0], other) for group in groups.values() for other in group[1:]]


def matched(wanted: Sequence[str], available: Sequence[str]) -> Mapping[str, str]:
    """Each wanted name -> the available one: the same, else the only one with the same :func:`normalised_name`."""
    present = set(available)
    matches = {name: name for name in wanted if name in present}
    unmatched: dict[str, list[str]] = defaultdict(list)
    for name in available:
        if name not in matches:
            unmatched[normalised_name(name)].append(name)
    asked: dict[str, list[str]] = defaultdict(list)
    for name in wanted:
        if name not in matches:
            asked[normalised_name(name)].append(name)
    return matches | {
        names[0]: unmatched[key][0]
        for key, names in asked.items()
        if len(names) == 1 and len(unmatched.get(key, ())) == 1
    }
