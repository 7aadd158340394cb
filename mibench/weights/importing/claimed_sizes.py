"""What a file of weights claims to hold: storages, tensors in them, and names that it asks for."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
SYSTEM = sys.stdlib_module_names | {"__builtin__", "exceptions", "commands"}  # Python 2 had those
LONGEST = 1 << 24  # of a side, in a file that is shorter itself
MOST_DIMENSIONS = 16  # of a tensor; layers have five
LARGEST = 1 << 62  # of any number that counts something


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of ``count`` items in a file, as declared; ``start`` is where a view of it begins, in items."""

    key: str
    dtype: torch.dtype
    count: int
    start: int = 0

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.dtype.itemsize * self.count


@dataclass(frozen=True, eq=False)
class DeclaredTensor:
    """A tensor as declared: a window into a storage, in items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What a copy of it takes."""
        items = 1
        for length in self.shape:
            items *= length
        return items * self.storage.dtype.itemsize

    def problem(self, most_bytes: int) -> str | None:
        """Why this tensor cannot be what it says; None when it can.

        Args:
            most_bytes: no tensor of an honest file is larger than the file.
        """
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(type(n) is int and 0 <= n < LARGEST for n in numbers):
            return "has an impossible shape"
        if len(self.shape) > MOST_DIMENSIONS:
            return f"claims {len(self.shape)} dimensions"
        if max(self.shape, default=0) > max(most_bytes, LONGEST):  # 0 items perhaps, but networks are built by lengths
            return f"claims a length of {max(self.shape):,}"
        if self.bytes > most_bytes:
            return f"claims {self.bytes:,} bytes"
        steps = zip(self.shape, self.stride, strict=True)
        reach = sum((length - 1) * step for length, step in steps) + 1 if self.bytes else 0
        return "reaches past its storage" if self.offset + reach > self.storage.count else None


@dataclass
class Findings:
    """What a pickle asked for and declared.

    Attributes:
        foreign: full names of everything that weights do not need, in order.
        harmless: those that training scripts store beside weights; they are left out.
        storages: key -> the storage declared under it, whole.
        tensors: every tensor.
        whole_model: a network was pickled as an object, classes and all.
        failure: why the pickle could not be followed to its end, or None.
        stopped: the failure is a limit of the meter, which no honest file reaches.
    """

    foreign: dict[str, None] = field(default_factory=dict)
    harmless: dict[str, None] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    tensors: list[DeclaredTensor] = field(default_factory=list)
    whole_model: bool = False
    failure: str | None = None
    stopped: bool = False

    def worst_first(self) -> list[str]:
        """The foreign names: those of the standard library, which act, before all others."""
        return sorted(self.foreign, key=lambda name: name.partition(".")[0] not in SYSTEM)
