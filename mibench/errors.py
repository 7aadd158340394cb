"""What a user's mistake raises. It lives apart from the contract so that importing it does not load torch."""

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


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it. What cannot be printed is escaped.

    Attributes:
        cause: what is wrong, without the final stop.
        cure: the next step; None where the cause says all there is to say.
    """

    cause: str
    cure: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cause", printable(str(self.cause)))
        object.__setattr__(self, "cure", printable(str(self.cure)) if self.cure else None)

    def __str__(self) -> str:
        return self.cause if self.cure is None else f"{self.cause}; {self.cure}"

    def of(self, subject: object) -> Problem:
        """The problem with the name of what has it in front."""
        return Problem(f"{subject}{self.cause}", self.cure)


class MibenchError(Exception):
    """A mistake in the input. The command line prints a line per problem, ``cause; cure``, and exits with 2.

    Args:
        cause: what is wrong.
        cure: the next step; None where there is none to name.

    Attributes:
        problems: what is wrong; several where all of it can be told at once (:meth:`several`).
    """

    def __init__(self, cause: object, *, cure: object | None = None) -> None:
        self.problems: tuple[Problem, ...] = (Problem(str(cause), None if cure is None else str(cure)),)
        super().__init__(str(self))

    @classmethod
    def several(cls, problems: Iterable[Problem]) -> MibenchError:
        """One error for several problems, of which there is at least one; each is told once."""
        first, *others = dict.fromkeys(problems)
        error = MibenchError(first.cause, cure=first.cure)
        error.problems = (first, *others)
        error.args = (str(error),)
        return error

    def of(self, subject: object) -> MibenchError:
        """The same problems, each with the name of what has it in front."""
        return MibenchError.several(problem.of(subject) for problem in self.problems)

    @property
    def cause(self) -> str:
        """What is wrong; of several problems, a line for each."""
        return "\n".join(problem.cause for problem in self.problems)

    @property
    def cure(self) -> str | None:
        """What to do about it; of several problems, a line for each cure that differs."""
        return "\n".join(dict.fromkeys(problem.cure for problem in self.problems if problem.cure)) or None

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


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

    def __init__(self, cause: object, misfit: StateDictMismatch, *, cure: object | None = None) -> None:
        super().__init__(cause, cure=cure)
        self.misfit = misfit
        self.args = (str(self), misfit)  # as pickle calls it
