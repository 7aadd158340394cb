"""The interpreter of pickles, with a meter: what a file makes us do grows with its size and no faster.

A pickle can refer to one value a million times, so that a megabyte asks for terabytes of copies, and it can choose the
keys of its mappings so that all of them fall into one place of the hash table. Here every instruction counts, every
call counts by the size of what it is given, and keys are of kinds whose hashes a file cannot choose.

The interpreter is the pure-Python one of the standard library: its memo is a dict, so that a number in a file cannot
make it allocate gigabytes.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, Protocol

MOST_STEPS = 5_000_000  # instructions of a pickle; large networks take a hundred thousand, every one may cost 200 bytes
MOST_WORK = 1_000_000  # items given to calls, beyond twice the bytes that were read
MOST_IN_A_KEY = 100  # items of a tuple that is a key, those of the tuples in it among them
MOST_ODD_KEYS = 1000  # of kinds whose hashes can be made to collide: a thousand of those do no harm
MOST_OF_A_KEY = 1 << 60  # numbers below the modulus of Python's hash, so that each has a hash of its own
MOST_MEMO = 1 << 32  # what the binary instructions can say; the one in text could choose colliding numbers


class Stopped(pickle.UnpicklingError):
    """A limit of the meter."""


class Readable(Protocol):
    """A file, or what stands in for one."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Whole:
    """A file whose reads give all they were asked for or say that it ends; the interpreter would take less.

    ``taken`` counts the bytes that were read.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.taken = 0

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        content = self._file.read(count)
        if len(content) < count:
            raise EOFError
        self.taken += count
        return content

    def readline(self) -> bytes:
        """A line with its end."""
        content = self._file.readline()
        if not content.endswith(b"\n"):
            raise EOFError
        self.taken += len(content)
        return content


STANDARD: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch
"""Opcode -> method of the interpreter in Python, which the type stubs do not describe."""


class Steps(dict[int, Callable[[Any], None]]):
    """Opcode -> method, for a limited number of look-ups."""

    left = MOST_STEPS

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise Stopped(f"it has more than {MOST_STEPS:,} instructions")
        return super().__getitem__(opcode)


class MeteredUnpickler(pickle._Unpickler):
    """Follows one pickle within the limits; what names stand for is up to those who inherit."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(STANDARD)  # opcode -> method
    stack: list[Any]  # this and what follows is declared here for the same reason
    memo: dict[int, object]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[object]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    makes: ClassVar[tuple[type, ...]] = ()
    """Classes that may be made without being called."""

    def __init__(self, file: Readable) -> None:
        self._source = Whole(file)
        super().__init__(self._source, encoding="latin1")  # never fails on text that Python 2 wrote
        self.dispatch = Steps(self.dispatch)  # type: ignore[misc]
        self._work = 0
        self._odd_keys = 0

    def get_extension(self, code: int) -> NoReturn:
        """Registered short codes are looked up in this process, so none is followed."""
        raise pickle.UnpicklingError("it uses the extension registry of copyreg")

    def charge(self, arguments: object) -> None:
        """Count what a call is given.

        Raises:
            Stopped: calls were given far more than was read: they get the same values again and again.
        """
        if type(arguments) is not tuple and type(arguments) is not list:
            raise pickle.UnpicklingError("it calls something without a list of arguments")
        self._spend(len(arguments))
        self._spend(sum(len(item) for item in arguments if isinstance(item, str | bytes | list | tuple | dict)))

    def _spend(self, items: int) -> None:
        self._work += items
        if self._work > MOST_WORK + 2 * self._source.taken:
            raise Stopped("it hands the same values out again and again")

    def check_key(self, key: object) -> None:
        """Refuse what a hash table cannot take at a bounded cost.

        Raises:
            Stopped: tuples without end, or too many keys that a file could have chosen to collide.
        """
        kind = type(key)
        if kind is str or kind is bytes or kind is bool or kind is float or key is None:
            return
        if type(key) is int and -MOST_OF_A_KEY < key < MOST_OF_A_KEY:
            return
        self._odd_keys += 1
        if self._odd_keys > MOST_ODD_KEYS:
            raise Stopped(f"it has more than {MOST_ODD_KEYS:,} keys that are no names")
        waiting: list[object] = [key]
        items = 0
        while waiting:
            one = waiting.pop()
            if type(one) is tuple:
                items += len(one)
                if items > MOST_IN_A_KEY:
                    raise Stopped("it nests tuples without end")
                waiting += one

    def _instantiate(self, klass: object, args: object) -> None:
        self.charge(args)
        super()._instantiate(klass, args)  # type: ignore[misc]


# Instructions: each of these stands in for the one of the standard interpreter.


def _reduce(reader: MeteredUnpickler) -> None:
    reader.charge(reader.stack[-1])
    STANDARD[pickle.REDUCE[0]](reader)


def _newobj(reader: MeteredUnpickler) -> None:
    _check_made(reader, reader.stack[-2], reader.stack[-1])
    STANDARD[pickle.NEWOBJ[0]](reader)


def _newobj_ex(reader: MeteredUnpickler) -> None:
    if type(reader.stack[-1]) is not dict or reader.stack[-1]:
        raise pickle.UnpicklingError("it makes an object with named arguments")
    _check_made(reader, reader.stack[-3], reader.stack[-2])
    STANDARD[pickle.NEWOBJ_EX[0]](reader)


def _check_made(reader: MeteredUnpickler, made: object, arguments: object) -> None:
    reader.charge(arguments)
    if not isinstance(made, type) or not issubclass(made, reader.makes):
        raise pickle.UnpicklingError("it makes an object of something that is no class")


def _build(reader: MeteredUnpickler) -> None:
    """A state is for instances that expect one: given to a function or a class it would change our own code."""
    state, held = reader.stack.pop(), reader.stack[-1]
    if type(held) is dict:  # attributes of a mapping say nothing about weights
        return
    take = getattr(type(held), "__setstate__", None)
    if take is None:
        raise pickle.UnpicklingError(f"it sets the state of a {type(held).__name__}")
    take(held, state)


def _setitem(reader: MeteredUnpickler) -> None:
    reader.check_key(reader.stack[-2])
    STANDARD[pickle.SETITEM[0]](reader)


def _setitems(reader: MeteredUnpickler) -> None:
    for key in reader.stack[::2]:
        reader.check_key(key)
    STANDARD[pickle.SETITEMS[0]](reader)


def _additems(reader: MeteredUnpickler) -> None:
    """A set is a list here: nothing needs more, and a list has no hash table."""
    items = reader.pop_mark()
    reader.stack[-1].extend(items)


def _empty_set(reader: MeteredUnpickler) -> None:
    reader.append([])


def _frozenset(reader: MeteredUnpickler) -> None:
    reader.append(reader.pop_mark())


def _put(reader: MeteredUnpickler) -> None:
    slot = int(reader.readline()[:-1])
    if not 0 <= slot < MOST_MEMO:
        raise pickle.UnpicklingError(f"it keeps a value in slot {slot}")
    reader.memo[slot] = reader.stack[-1]


def _bytearray8(reader: MeteredUnpickler) -> None:
    """Read and dropped: the usual way allocates its stated size before anything says there is less."""
    (count,) = struct.unpack("<Q", reader.read(8))
    reader.read(count)
    reader.append(b"")


for _opcode, _method in (
    (pickle.REDUCE, _reduce),
    (pickle.NEWOBJ, _newobj),
    (pickle.NEWOBJ_EX, _newobj_ex),
    (pickle.BUILD, _build),
    (pickle.SETITEM, _setitem),
    (pickle.SETITEMS, _setitems),
    (pickle.ADDITEMS, _additems),
    (pickle.EMPTY_SET, _empty_set),
    (pickle.FROZENSET, _frozenset),
    (pickle.PUT, _put),
    (pickle.BYTEARRAY8, _bytearray8),
):
    MeteredUnpickler.dispatch[_opcode[0]] = _method
