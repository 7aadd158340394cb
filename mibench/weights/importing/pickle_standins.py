"""What stands in for the names in a pickle: none of it acts, and what it costs is bounded by what it is given."""

from __future__ import annotations

import pickle
import re

import numpy as np

from .metered_unpickler import MOST_OF_A_KEY
from .text import shown

NUMBER_DTYPE = re.compile(r"[fiub]\d{1,2}$")
PURE = ("Path", "PurePath", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
PLAIN_TYPES = (
    "object", "list", "dict", "tuple", "int", "long", "float", "str", "unicode", "bool", "complex", "frozenset",
    "bytearray", "bytes", "slice", "range", "xrange",
)  # fmt: skip
HARMLESS = {
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("types", "MappingProxyType"),
    ("collections", "ChainMap"),
    ("collections", "UserDict"),
    ("collections", "UserList"),
    ("collections", "deque"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    ("uuid", "SafeUUID"),
    ("time", "struct_time"),
    ("random", "Random"),
    ("logging", "getLogger"),
    ("logging", "Logger"),
    ("functools", "partial"),
    ("re", "_compile"),
    ("numpy", "ndarray"),
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone", "tzinfo")),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in PURE),
    *((module, name) for module in ("builtins", "__builtin__") for name in PLAIN_TYPES),
    *((module, name) for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__")),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
"""Classes that training scripts store beside weights, and what rebuilds them: they hold values and do nothing."""


class Foreign:
    """Stands in for anything unknown: takes every argument and every state, does nothing."""

    __slots__ = ()

    def __new__(cls, *arguments: object, **named: object) -> Foreign:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __call__(self, *arguments: object, **named: object) -> Foreign:
        """Itself again."""
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Drop the item."""

    def extend(self, items: object) -> None:
        """Drop the items."""


class NumberType:
    """A NumPy dtype of numbers. The real one takes object dtypes and any state."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *rest: object) -> None:
        if not isinstance(code, str) or not NUMBER_DTYPE.match(code):
            raise pickle.UnpicklingError(f"a NumPy value that is not a number ({shown(code)})")
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a NumPy type in an unknown state")
        self.order = state[1]


def number_type(code: object, *rest: object) -> NumberType | Foreign:
    """A NumPy dtype; one of text, dates or objects stands for nothing."""
    return NumberType(code) if isinstance(code, str) and NUMBER_DTYPE.match(code) else Foreign()


def number(kind: object, content: object) -> float | int | bool:
    """A NumPy number as a plain one."""
    if not isinstance(kind, NumberType) or not isinstance(content, bytes) or len(content) > 16:
        raise pickle.UnpicklingError("a NumPy value that is not a number")
    (value,) = np.frombuffer(content, dtype=kind.order + kind.code).tolist()  # one item, or it fails
    result: float | int | bool = value
    return result


def number_or_nothing(kind: object, content: object = b"") -> object:
    """A NumPy number; one of another type stands for nothing."""
    return kind if isinstance(kind, Foreign) else number(kind, content)


def encoded(text: object, encoding: object = "latin1") -> bytes:
    """Bytes in protocol 2. The real function imports the module of any codec it is asked for."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in an encoding other than latin1")
    return text.encode("latin1")


def sizes(items: object = ()) -> tuple[int, ...]:
    """A ``torch.Size``."""
    if not isinstance(items, tuple | list) or not all(type(item) is int for item in items):
        raise pickle.UnpicklingError("a shape that is not of whole numbers")
    return tuple(items)


def nothing(*arguments: object) -> None:
    """For values that are dropped, such as the device that a tensor was on: it will be on the CPU."""


def same_items(items: object = ()) -> object:
    """A set or a ``Counter``: the list or mapping that it is made of, itself. Copies could be asked for endlessly."""
    if type(items) is not list and type(items) is not dict and items != ():
        raise pickle.UnpicklingError("a set of something that is no list")
    return [] if items == () else items


def mapping(items: object = ()) -> dict[object, object]:
    """A plain dict for an ``OrderedDict``: empty, of pairs as Python 2 wrote it, or the mapping given."""
    if type(items) is dict:
        return items
    pairs = [] if items == () else items
    if type(pairs) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise pickle.UnpicklingError("a mapping of something that is no list of pairs")
    if not all(type(key) is str or (type(key) is int and abs(key) < MOST_OF_A_KEY) for key, _ in pairs):
        raise pickle.UnpicklingError("a mapping whose keys are no names")  # other hashes could be chosen to collide
    return dict(pairs)


def mapping_with_default(factory: object = None, *rest: object) -> dict[object, object]:
    """A plain dict for a ``defaultdict``."""
    return mapping(*rest)


def first(data: object, *rest: object) -> object:
    """A parameter is its tensor; what else is said of it (gradients, hooks, attributes) is left out."""
    return data
