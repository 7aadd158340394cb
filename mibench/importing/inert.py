"""Follows a pickle without calling anything it names: what it asks for, and how large its tensors claim to be.

A pickle is a program. Here each name it looks up becomes a stand-in that does nothing, so the program runs to its end
(or fails) without any effect, and leaves two facts: the names that no file of weights needs, and every tensor with the
storage it lies in. Both are checked before torch opens the file. The interpreter is the pure-Python one of the standard
library: its memo is a dict, so that a number in a file cannot make it allocate gigabytes.
"""

from __future__ import annotations

import pickle
import re
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    MemoryError,
    RecursionError,
    struct.error,
)
"""What a damaged or hostile pickle raises."""

ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "UntypedStorage": 1,
}
STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
SYSTEM = sys.stdlib_module_names | {"__builtin__", "exceptions", "commands"}  # Python 2 had those
NUMBER_DTYPE = re.compile(r"[fiub]\d{1,2}$")
LONGEST = 1 << 24  # of a side, in a file that is shorter itself
DEEPEST = 50  # tuples in tuples: hashing one that is nested a hundred thousand times overflows the interpreter's stack
MOST_ITEMS = 1_000_000  # of one tuple and the ones in it, repeated ones each time: what hashing it takes
MOST_STEPS = 5_000_000  # instructions of a pickle; large networks take a hundred thousand, every one may cost 200 bytes


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` items in a file, as declared."""

    key: str
    item_bytes: int
    count: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.item_bytes * self.count


@dataclass(frozen=True)
class DeclaredTensor:
    """A tensor as declared: a window into a storage, in items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def problem(self, most_bytes: int) -> str | None:
        """Why this tensor cannot be what it says; None when it can.

        Args:
            most_bytes: no tensor of an honest file is larger than the file.
        """
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(type(n) is int and n >= 0 for n in numbers):
            return "has an impossible shape"
        items = 1
        for length in self.shape:
            items *= length
        if max(self.shape, default=0) > max(most_bytes, LONGEST):  # 0 items perhaps, but networks are built by lengths
            return f"claims a length of {max(self.shape):,}"
        if items * self.storage.item_bytes > most_bytes:
            return f"claims {items * self.storage.item_bytes:,} bytes"
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) + 1 if items else 0
        return "reaches past its storage" if self.offset + reach > self.storage.count else None


@dataclass
class Findings:
    """What a pickle asked for and declared.

    Attributes:
        foreign: full names of everything that weights do not need, in order.
        storages: key -> the largest storage declared under it.
        tensors: every tensor.
        whole_model: a network was pickled as an object, classes and all.
        failure: why the pickle could not be followed to its end, or None.
    """

    foreign: list[str] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    tensors: list[DeclaredTensor] = field(default_factory=list)
    whole_model: bool = False
    failure: str | None = None

    def worst_first(self) -> list[str]:
        """The foreign names without repetition: those of the standard library, which act, before all others."""
        names = dict.fromkeys(self.foreign)
        return sorted(names, key=lambda name: name.partition(".")[0] not in SYSTEM)


class Foreign:
    """Stands in for anything unknown: takes every argument and every state, does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> Foreign:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **named: Any) -> Foreign:
        """Itself again."""
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Drop the item."""

    def extend(self, items: Any) -> None:
        """Drop the items."""


class _Whole:
    """A file whose reads give all they were asked for or say that it ends; the interpreter would take less."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        content: bytes = self._file.read(count)
        if len(content) < count:
            raise EOFError
        return content

    def readline(self) -> bytes:
        """A line with its end."""
        content: bytes = self._file.readline()
        if not content.endswith(b"\n"):
            raise EOFError
        return content


class InertUnpickler(pickle._Unpickler):
    """Reads one pickle off a file; :attr:`findings` fills meanwhile."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)  # opcode -> method

    def __init__(self, file: Any, findings: Findings) -> None:
        super().__init__(_Whole(file), encoding="latin1")  # never fails on text that Python 2 wrote
        self.findings = findings
        self.dispatch = _Metered(self.dispatch)  # type: ignore[misc]
        self._tuples: dict[int, tuple[int, int, object]] = {}  # id -> depth, items, itself (so that ids stay unique)

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for ``module.name``; nothing is imported."""
        if module in STORAGE_MODULES and name in ITEM_BYTES:
            return _StorageType(ITEM_BYTES[name])
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _first
        if module == "torch" and _is_dtype(name):
            return f"torch.{name}"
        if (known := PLAIN.get((module, name))) is not None:
            return known
        self.findings.foreign.append(f"{module}.{name}")
        self.findings.whole_model |= module.startswith("torch.nn.modules.")
        return Foreign

    def get_extension(self, code: int) -> NoReturn:
        """Registered short codes are looked up in this process, so none is followed."""
        raise pickle.UnpicklingError("it uses the extension registry of copyreg")

    def persistent_load(self, identifier: Any) -> Any:
        """Storages, as torch points at them from its pickle."""
        if isinstance(identifier, tuple) and identifier and identifier[0] == "module":  # torch before 1.6
            self.findings.whole_model = True
            return Foreign
        kind, storage_type, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(storage_type, _StorageType) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("it points at something that is not a storage")
        whole = Storage(str(key), storage_type.item_bytes, count)
        before = self.findings.storages.get(whole.key)
        self.findings.storages[whole.key] = whole if before is None or whole.bytes > before.bytes else before
        if view and view[0] is not None:
            _, offset, length = view[0]
            if not 0 <= offset <= offset + length <= count:
                raise pickle.UnpicklingError("a view reaches past its storage")
            return Storage(whole.key, whole.item_bytes, length)
        return whole

    def _tensor(self, storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> DeclaredTensor:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        tensor = DeclaredTensor(storage, offset, tuple(shape), tuple(stride))
        self.findings.tensors.append(tensor)
        return tensor


@dataclass(frozen=True)
class _StorageType:
    item_bytes: int


class _Metered(dict[int, Callable[[Any], None]]):
    """Opcode -> method, for a limited number of look-ups."""

    left = MOST_STEPS

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"it has more than {MOST_STEPS:,} instructions")
        return super().__getitem__(opcode)


def _shallow(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def checked(reader: Any) -> None:
        load(reader)
        made = reader.stack[-1]
        inner = [reader._tuples[id(item)] for item in made if id(item) in reader._tuples]
        depth = 1 + max((one[0] for one in inner), default=0)
        items = len(made) + sum(one[1] for one in inner)
        if depth > DEEPEST or items > MOST_ITEMS:
            raise pickle.UnpicklingError("it nests tuples without end")
        reader._tuples[id(made)] = depth, items, made

    return checked


def _build(reader: Any) -> None:
    """A state is for instances that expect one: given to a function or a class it would change our own code."""
    held = reader.stack[-2]
    if not isinstance(held, dict) and not hasattr(type(held), "__setstate__"):
        raise pickle.UnpicklingError(f"it sets the state of a {type(held).__name__}")
    pickle._Unpickler.dispatch[pickle.BUILD[0]](reader)


def _buffer(reader: Any) -> None:
    """A bytearray, read and dropped: the usual way allocates its stated size before anything says there is less."""
    (count,) = struct.unpack("<Q", reader.read(8))
    reader.read(count)
    reader.append(b"")


for _opcode in (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE):
    InertUnpickler.dispatch[_opcode[0]] = _shallow(pickle._Unpickler.dispatch[_opcode[0]])
InertUnpickler.dispatch[pickle.BUILD[0]] = _build
InertUnpickler.dispatch[pickle.BYTEARRAY8[0]] = _buffer


def _first(data: Any, *rest: Any) -> Any:
    return data


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(vars(torch).get(name), torch.dtype)  # getattr would import torch's lazy modules


def _nothing(*arguments: Any) -> None:
    """For values that are dropped."""


def _shape(items: Any = ()) -> tuple[Any, ...]:
    if not all(type(item) is int for item in items):
        raise pickle.UnpicklingError("a shape that is not of whole numbers")
    return tuple(items)


class _NumberType:
    """A NumPy dtype: numbers only."""

    def __init__(self, code: Any, *rest: Any) -> None:
        if not NUMBER_DTYPE.match(str(code)):
            raise pickle.UnpicklingError(f"a NumPy value that is not a number ({str(code)[:20]})")

    def __setstate__(self, state: Any) -> None:
        pass


PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,  # milestones of a schedule
    ("torch", "Size"): _shape,
    ("torch", "device"): _nothing,
    ("_codecs", "encode"): _nothing,
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _nothing,
    ("numpy._core.multiarray", "scalar"): _nothing,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
"""What a file of weights may name besides tensors."""


def follow(file: Any, findings: Findings, reader: type[InertUnpickler] = InertUnpickler) -> Any:
    """Read one pickle off ``file`` without effect; a failure goes into ``findings``.

    Args:
        file: has ``read`` and ``readline`` that never return more than there is.

    Returns:
        The object, stand-ins in place of tensors; None after a failure.
    """
    try:
        return reader(file, findings).load()
    except BROKEN as error:
        reason = str(error) or type(error).__name__
        findings.failure = "it ends in the middle" if isinstance(error, EOFError) else reason
        return None
