"""Text from foreign files in our messages: one line, no control characters, no novel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

LONGEST = 100  # characters of one foreign name
LARGEST = 10**30  # of a number that is shown in full


def shown(text: object) -> str:
    """A name out of a file as printable ASCII on one line, cut where it is absurdly long."""
    if isinstance(text, list | tuple | set | frozenset | Mapping):  # one that holds itself has no end of text
        return f"a {type(text).__name__}"
    if type(text) is int and abs(text) >= LARGEST:  # Python does not write numbers of thousands of digits
        return f"a number of {text.bit_length()} bits"
    plain = str(text)[: 4 * LONGEST].encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."


def listed(names: Iterable[object], most: int = 3) -> str:
    """``a, b, c ...``: the first few names."""
    items: Collection[object] = list(names)
    return ", ".join(shown(name) for name in list(items)[:most]) + (" ..." if len(items) > most else "")


def size(count: float) -> str:
    """``12 bytes``, ``3.4 kB``, ``1.2 GB``."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.3g} TB"
