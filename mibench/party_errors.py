"""Whose code an exception comes from: a mistake in an attack, a metric or any other party is one line.

No party is special: an attack that mibench ships is treated as one that somebody plugs in. An exception in which no
party's code takes part is a mistake of the referee, or of whoever calls it from Python, and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType

from mibench import plugins, registry
from mibench.errors import MibenchError, printable

VARIABLE = "MIBENCH_TRACEBACK"  # set to anything, tracebacks of parties are printed
CURE = f"{VARIABLE}=1 mibench ... prints its traceback"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)  # of whoever runs the program, not of the code
MOST_CALLS = 50  # at the beginning and at the end of a traceback that is kept
REFEREE = __name__.partition(".")[0]
DATA_KINDS = ("cards", "protocol", "suite", "role")  # registered, but no code


@dataclass(frozen=True)
class Position:
    """A line of a party's code.

    Attributes:
        party: ``attack 'climb'``.
        file: relative to what the party's distribution, folder or file is called: no path of a machine.
    """

    party: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


class PartyError(MibenchError):
    """An exception of a party's code, which is the cause."""


@contextmanager
def parties_named(
    cure: Callable[[BaseException], str] = lambda error: CURE, *, passing: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Turn an exception that a party's code raised, or the end of the program that it asked for, into a
    :class:`PartyError` that names party, file and line.

    Args:
        cure: where the traceback can be read.
        passing: exceptions by which the caller itself ends.

    Raises:
        PartyError: caused by the exception, so that Python shows whoever wrote the code the traceback.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (MibenchError, KeyboardInterrupt, *passing)):
            raise
        fault = party_fault(error)
        if fault is None:
            raise
        raise PartyError(fault, cure=cure(error)) from error


def party_fault(error: BaseException) -> str | None:
    """What is said of an exception that a party's code raised; None: it is nobody's but the referee's or the caller's.

    >>> party_fault(ValueError("raised nowhere")) is None
    True
    """
    if isinstance(error, OSError) and error.errno in DISK:
        return None
    try:
        positions = _positions(error.__traceback__)
    except MibenchError:  # the catalogue of somebody else cannot be read: this error is told as it is
        return None
    if not positions:
        return None
    from mibench.system.foreign_code import ended, worded  # loads torch, as parties do

    callers = dict.fromkeys(one.party for one in reversed(positions))  # each once, from the line that raised outwards
    innermost, *outer = [next(one for one in reversed(positions) if one.party == party) for party in callers]
    deed = f"ends the program ({ended(error)})" if isinstance(error, SystemExit) else f"raises {worded(error)}"
    called = "".join(f", called by {one.party} ({one})" for one in outer)
    return f"{innermost.party} {deed} ({innermost}){called}"


def shown_traceback(error: BaseException) -> list[str]:
    """The traceback of an exception, a line for each call, without paths of this machine: for files that are kept.

    Of an endless recursion it holds the beginning and the end.
    """
    lines = [
        printable(f"{_file(frame)}, line {line}, in {frame.f_code.co_qualname}")
        for frame, line in _frames(error.__traceback__)
    ]
    left_out = len(lines) - 2 * MOST_CALLS
    return lines if left_out <= 0 else [*lines[:MOST_CALLS], f"... {left_out} more ...", *lines[-MOST_CALLS:]]


def print_wanted_traceback(error: BaseException) -> None:
    """Print the traceback of a party's exception to stderr where ``MIBENCH_TRACEBACK`` asks for it."""
    if os.environ.get(VARIABLE) and isinstance(error, PartyError):
        traceback.print_exception(error.__cause__)


def _positions(trace: TracebackType | None) -> list[Position]:
    """The lines of parties that an exception came through, outermost first; none where it was raised elsewhere: by the
    code that called the referee, such as a reporter or a handler of signals that is called in the middle of an attack.
    """
    positions: list[Position] = []
    elsewhere, last = False, ""
    entries = _entries()
    for frame, line in _frames(trace):
        module = str(frame.f_globals.get("__name__", ""))
        package = _package(module, frame, entries)
        if package is None:
            if not _in_library(frame.f_code.co_filename):
                elsewhere = module.partition(".")[0] != REFEREE
            continue
        party = _named(module, frame, entries)
        if party is None:  # a module that nobody registered belongs to who called it from the same package
            party = positions[-1].party if last == package else f"code of {package}"
        positions.append(Position(party, _file(frame), line))
        elsewhere, last = False, package
    return [] if elsewhere else positions


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    yield from traceback.walk_tb(trace)


def _entries() -> dict[str, list[registry.Entry]]:
    """Registered objects by the module that they lie in."""
    found: dict[str, list[registry.Entry]] = {}
    for kind, named in registry.catalogue().items():
        for entry in named.values() if kind not in DATA_KINDS else ():
            found.setdefault(entry.module, []).append(entry)
    return found


def _package(module: str, frame: FrameType, entries: dict[str, list[registry.Entry]]) -> str | None:
    """The package, module or folder of the party that a frame belongs to; None: no party's."""
    folder = os.path.dirname(os.path.abspath(frame.f_code.co_filename))  # noqa: PTH100, PTH120 (runs for each frame)
    if plugins.is_file_module(module) or (module != "__main__" and folder in plugins.file_folders()):
        return printable(os.path.basename(folder))  # noqa: PTH119
    if module in entries:
        return _party_package(module) or module
    packages = {_party_package(registered) for registered in entries}
    return next((name for name in packages if name is not None and f"{module}.".startswith(f"{name}.")), None)


@cache
def _party_package(module: str) -> str | None:
    """The package whose modules are all of one party: the one with the catalogue, else the outermost; the referee's own
    parties are single modules."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        package = ".".join(parts[:count])
        if hasattr(sys.modules.get(package), plugins.CATALOGUE):
            return package
    return parts[0] if parts[0] != REFEREE else None


def _named(module: str, frame: FrameType, entries: dict[str, list[registry.Entry]]) -> str | None:
    """``attack 'climb'``: by the class of the object whose method runs, which may have inherited it; else by the module
    (of several parties in it the one whose function it is)."""
    first = frame.f_code.co_varnames[:1] if frame.f_code.co_argcount else ()
    kind = type(next((frame.f_locals.get(name) for name in first), None))
    kind_module = str(kind.__module__)
    in_its_module = entries.get(kind_module, ())
    of_object = next((one for one in in_its_module if _attribute(one) == kind.__qualname__), None)
    if of_object is not None:
        return f"{of_object.kind} {of_object.name!r}"
    function = frame.f_code.co_qualname.partition(".")[0]
    if plugins.is_file_module(kind_module):
        return f"attack {plugins.name_in(kind_module, kind.__qualname__)!r}"
    if plugins.is_file_module(module):
        return f"attack {plugins.name_in(module, function)!r}"
    here = entries.get(module)
    if not here:
        return None
    entry = next((one for one in here if _attribute(one) == function), here[0])
    return f"{entry.kind} {entry.name!r}"


def _attribute(entry: registry.Entry) -> str:
    return entry.address.partition(":")[2]


def _file(frame: FrameType) -> str:
    """``hillclimb/attack.py``: the file as its package knows it."""
    module = str(frame.f_globals.get("__name__", ""))
    name = Path(frame.f_code.co_filename).name
    folders = [] if plugins.is_file_module(module) else module.split(".")
    if name != "__init__.py":
        folders = folders[:-1]
    return printable("/".join([*folders, name]))


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    own = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({*own, *site.getsitepackages(), site.getusersitepackages()})


def _in_library(file: str) -> bool:
    """Whether a file is Python's own or an installed distribution's; so is what has no file."""
    return not os.path.isabs(file) or file.startswith(_library_folders())  # noqa: PTH117
