"""What a user's mistake raises. It lives apart from the contract so that naming it costs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_LONGEST = 80  # characters of a name that are compared


def printable(text: str) -> str:
    """Text for one line on a terminal: whatever is no plain character (line breaks, escape sequences, marks that turn
    the direction of writing, bytes of names that are no text) is escaped, as ``\\n`` and ``\\x1b``.

    Names come from disks and files: as they are, they could write lines of their own.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'dmmia'?`` or nothing: the end of a message about an unknown name."""
    near = difflib.get_close_matches(name[:_LONGEST].lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


class MibenchError(Exception):
    """A mistake in the input. One line: the cause and the cure. The command line prints it and exits with 2.

    Args:
        lines: the message; where there are several causes, a line for each. What cannot be printed is escaped.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*(printable(str(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


@dataclass(frozen=True, kw_only=True)
class StateDictMismatch:
    """In full, how weights differ from what a network takes.

    Attributes:
        missing: keys that the network has and the weights lack.
        unexpected: keys that only the weights have.
        misshapen: key -> (shape the network takes, shape the weights have).
    """

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    misshapen: Mapping[str, tuple[Sequence[int], Sequence[int]]]

    @classmethod
    def between(cls, wanted: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> StateDictMismatch:
        """Compare two mappings of keys to shapes."""
        return cls(
            missing=sorted(set(wanted) - set(given)),
            unexpected=sorted(set(given) - set(wanted)),
            misshapen={
                key: (tuple(wanted[key]), tuple(given[key]))
                for key in sorted(set(wanted) & set(given))
                if tuple(wanted[key]) != tuple(given[key])
            },
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def summary(self, most: int = 3) -> str:
        """``2 missing (a, b); 1 of another shape (c: expected (3,), got (4,))``: the first few of each."""
        parts = [
            f"{len(keys)} {what} ({', '.join(key[:100] for key in keys[:most])}{' ...' if len(keys) > most else ''})"
            for what, keys in (("missing", self.missing), ("unexpected", self.unexpected))
            if keys
        ]
        if self.misshapen:
            key, (expected, got) = next(iter(self.misshapen.items()))
            parts.append(f"{len(self.misshapen)} of another shape ({key}: expected {expected}, got {got})")
        return "; ".join(parts)


class MisfitError(MibenchError):
    """Weights that do not fit their network. ``misfit`` has every key, the message the first few."""

    def __init__(self, message: str, misfit: StateDictMismatch) -> None:
        super().__init__(message)
        self.misfit = misfit
