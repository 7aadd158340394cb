"""One look for each attack and each defence, in every figure of every paper: colour, marker and line.

A name looks the same whatever stands beside it. Markers and lines differ as well, so that print without colour can be
read. Names that are not listed get a look by their hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION

OLIVE, INDIGO, WINE, BROWN, TEAL = "#999933", "#332288", "#882255", "#7A4B00", "#004D40"  # beside Okabe and Ito's
Line = str | tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of matplotlib."""

    colour: str
    marker: str
    line: Line


_DASH_DOT_DOT: Line = (0, (4, 1, 1, 1, 1, 1))
_LOOSE: Line = (0, (1, 2))
LOOKS = {
    "floor": Look(GREY, "D", ":"),
    "none": Look(INK, "o", "-"),
    "ppa": Look(VERMILION, "s", "-"),
    "dmmia": Look(BLUE, "o", "--"),
    "gmi": Look(GREEN, "^", "-."),
    "kedmi": Look(PURPLE, "v", _DASH_DOT_DOT),
    "mirror-w": Look(ORANGE, "P", _LOOSE),
    "mirror-b": Look(SKY, "X", (0, (6, 2))),
    "bido": Look(BLUE, "s", "--"),  # no two defences share a colour; ink and grey are the undefended ones'
    "mid": Look(VERMILION, "^", "-."),
    "negls": Look(GREEN, "v", ":"),
    "ls": Look(OLIVE, "P", (0, (6, 2))),
    "tl-dmi": Look(PURPLE, "X", _DASH_DOT_DOT),
    "midre": Look(ORANGE, "<", _LOOSE),
    "rolss": Look(INDIGO, ">", (0, (5, 1))),
    "trap-mid": Look(WINE, "p", "--"),
    "at-at": Look(BROWN, "h", "-."),
    "distillation": Look(TEAL, "D", ":"),
    "dp-sgd": Look(SKY, "d", (0, (6, 2))),
}
TITLES = {
    "none": "no defence",
    "ppa": "PPA",
    "dmmia": "DMMIA",
    "gmi": "GMI",
    "kedmi": "KED-MI",
    "mirror-w": "MIRROR (gradients)",
    "mirror-b": "MIRROR (scores)",
    "bido": "BiDO",
    "mid": "MID",
    "negls": "NegLS",
    "ls": "label smoothing",
    "tl-dmi": "TL-DMI",
    "midre": "MIDRE",
    "rolss": "RoLSS",
    "trap-mid": "Trap-MID",
    "at-at": "AT-AT",
    "dp-sgd": "DP-SGD",
    "distillation": "distillation",
}
_OTHERS = tuple(
    Look(colour, marker, line)
    for marker, line in zip("oDhd*p<>", ("-", "--", "-.", ":", _LOOSE, _DASH_DOT_DOT, "-", "--"), strict=True)
    for colour in (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
    if all((colour, marker) != (look.colour, look.marker) for look in LOOKS.values())
)
_MORE_MARKERS = "osD^vPX<>phd*"


def look_of(name: str) -> Look:
    """The look of an attack or a defence by its registered name; of several defences (``a+b``) by all of it."""
    if name in LOOKS:
        return LOOKS[name]
    return _OTHERS[int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % len(_OTHERS)]


def defence_looks(names: Iterable[str]) -> dict[str, Look]:
    """Look of each defence: its own, and where the hashes of two that are not listed meet, the later name's next one.

    No two share colour and marker, up to as many as there are.
    """
    looks: dict[str, Look] = {}
    for name in sorted(set(names), key=lambda name: (name not in LOOKS, name)):
        look = look_of(name)
        if look in looks.values() and look in _OTHERS:
            first = _OTHERS.index(look)
            look = next((each for each in _OTHERS[first:] + _OTHERS[:first] if each not in looks.values()), look)
        looks[name] = look
    return looks


def looks_of(rows: Iterable[tuple[str, str]]) -> dict[str, Look]:
    """Look of each row ``(label, name)``: further rows of one name keep colour and line and get other markers."""
    looks: dict[str, Look] = {}
    labels: dict[str, list[str]] = {}
    for label, name in rows:
        if label in looks:
            continue
        look = look_of(name)
        earlier = labels.setdefault(name, [])
        if earlier:
            free = [marker for marker in _MORE_MARKERS if marker != look.marker]
            look = Look(look.colour, free[(len(earlier) - 1) % len(free)], look.line)
        earlier.append(label)
        looks[label] = look
    return looks


def defence_title(label: str, name: str) -> str:
    """What a reader calls a row of a defence: as :func:`title_of`, of several defences the title of each."""
    named = label.removeprefix("control: ")
    title = " + ".join(TITLES.get(each, each) for each in name.split("+"))
    named = title + named[len(name) :] if named.startswith(name) else named
    return f"{named} (control)" if named != label and label.startswith("control: ") else named


def title_of(label: str, name: str) -> str:
    """What a reader calls a row: the name's title in the place of the name; the rest of the label stays."""
    title = TITLES.get(name)
    return label if title is None or not label.startswith(name) else title + label[len(name) :]
