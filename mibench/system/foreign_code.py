"""The guard around code that somebody else wrote: a model to be audited, its module, a plug-in.

Every call of such code goes through :func:`foreign`. Such code prints, parses a command line, ends the program, seeds
and switches what belongs to the whole process; none of that may reach a result, the output that programs read, or the
exit code. It is no protection against malice: code that is run can do what the person who runs it can do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import SupportsIndex, overload

import torch

from mibench.errors import MibenchError, printable
from mibench.system.process_state import randomness_kept, randomness_of_others, settings_kept
from mibench.system.stdout_guard import stdout_to_stderr
from mibench.system.turns import ForkSafeLock

FULL = (  # what errors say that are no OutOfMemoryError: the CPU's allocator, CUDA and its libraries without torch's
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
LONGEST = 200  # characters of somebody else's message
SCRIPT = 'keep what belongs to a script below `if __name__ == "__main__":`'

# One call at a time: what is swapped belongs to the whole process. A call within a call is of the same thread.
_lock = ForkSafeLock()


@contextmanager
def foreign(whose: str, when: str, *, failing: str | None = None) -> Iterator[None]:
    """Run somebody else's code.

    What it prints goes to stderr, it sees an empty command line, its random numbers are its own, and settings of the
    process are put back (:mod:`mibench.system.process_state`). Ctrl-C and full memory pass: the program handles them.

    Args:
        whose: the subject of messages, ``model net:build``.
        when: ``on import``, ``when it is built``.
        failing: what is said before an exception of that code; None: exceptions pass and the caller finds the words.

    Raises:
        MibenchError: it ended the program, read the command line, raised what is no exception, changed what cannot be
            put back, or failed.
    """
    with (
        _lock.acquired(),
        randomness_of_others.apart(),
        settings_kept() as stuck,
        stdout_to_stderr(),
        _no_command_line() as line,
    ):
        try:
            yield
        except (KeyboardInterrupt, MibenchError):
            raise
        except BaseException as error:
            if line.read:
                raise _reads(whose, when) from error
            if isinstance(error, SystemExit):
                raise MibenchError(f"{whose} ends the program {when} ({ended(error)})", cure=SCRIPT) from error
            if not isinstance(error, Exception):
                raise MibenchError(f"{whose} raises {worded(error)} {when}") from error
            if failing is None or out_of_memory(error):
                raise
            raise MibenchError(f"{failing}: {worded(error)}") from error
        if line.read:
            raise _reads(whose, when)
    if stuck:
        raise MibenchError(
            f"{whose} changes {', '.join(stuck)} {when}, and that cannot be put back", cure="take it out"
        )


@contextmanager
def contained(whose: str, when: str, *, seeds: bool = False) -> Iterator[None]:
    """Run the code of a party: an attack, a metric, a report.

    As :func:`foreign`, but for code whose numbers are results: a setting that numbers depend on and that is changed for
    longer than the call is refused, not only put back, or results would depend on what ran before. Exceptions pass, and
    no lock is held: an attack may ask its victim from several threads.

    Args:
        whose: the subject of messages, ``attack 'climb'``.
        when: ``in reconstruct``.
        seeds: whether global random numbers are its to set (a training does, from the stream of each step).

    Raises:
        MibenchError: it read the command line, or changed such a setting.
    """
    changed: list[str] = []
    random_numbers = nullcontext(list[str]()) if seeds else randomness_kept()
    with random_numbers as reseeded, settings_kept(changed) as stuck, stdout_to_stderr(), _no_command_line() as line:
        try:
            yield
        except (KeyboardInterrupt, MibenchError):
            raise
        except BaseException as error:
            if line.read:
                raise _reads(whose, when) from error
            raise
        if line.read:
            raise _reads(whose, when)
    changed += reseeded
    if changed:
        raise MibenchError(
            f"{whose} changes {', '.join(changed)} {when}, for everything that is computed after it",
            cure="put it back before returning, or draw random numbers from the streams that it is handed",
        )
    if stuck:
        raise MibenchError(
            f"{whose} changes {', '.join(stuck)} {when}, and that cannot be put back", cure="take it out"
        )


def text_of(error: BaseException) -> str:
    """What an exception says; "" where saying it fails."""
    try:
        return "".join(str.__iter__(str(error)))  # a str of a subclass may lie about its parts
    except BaseException as unsaid:  # the text of an exception is somebody else's code, too
        if isinstance(unsaid, KeyboardInterrupt):
            raise
        return ""


def worded(error: BaseException) -> str:
    """``ValueError: what it says``, on one line and printable, also where the exception cannot say it."""
    name = printable(type(error).__name__)
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    # torch's errors end in what happened, after the trace of a script
    text = printable(lines[-1].removeprefix(f"{name}: "))[:LONGEST] if lines else ""
    return f"{name}: {text}" if text else name


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full (not every allocator raises an error of its own)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in text_of(error) for words in FULL)


def ended(error: SystemExit) -> str:
    """``sys.exit(0)``, as code wrote it."""
    code = error.code if type(error.code) in (int, str, type(None)) else type(error.code).__name__
    return f"sys.exit({printable(str(code))[:LONGEST]})"


def _reads(whose: str, when: str) -> MibenchError:
    return MibenchError(f"{whose} reads the command line {when}, and this one is mibench's", cure=SCRIPT)


class _CommandLine(list[str]):
    """The program's name and nothing after it; remembers whether somebody looked there."""

    read = False

    @overload
    def __getitem__(self, key: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: SupportsIndex | slice) -> str | list[str]:
        start = key.start if isinstance(key, slice) else key
        self.read = self.read or start not in (None, 0)
        return super().__getitem__(key)


@contextmanager
def _no_command_line() -> Iterator[_CommandLine]:
    ours = sys.argv
    sys.argv = line = _CommandLine(ours[:1])
    try:
        yield line
    finally:
        sys.argv = ours
