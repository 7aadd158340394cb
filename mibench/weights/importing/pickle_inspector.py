"""Follows a pickle without calling anything it names: what it asks for, and how large its tensors claim to be.

A pickle is a program. Here each name it looks up becomes a stand-in that does nothing, so the program runs to its end
(or fails) without any effect, and leaves the object in it, plain containers and declared tensors, and two facts: the
names that no file of weights needs, and every tensor with the storage it lies in.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .claimed_sizes import LARGEST, STORAGES, DeclaredTensor, Findings, Storage
from .metered_unpickler import MeteredUnpickler, Readable, Stopped
from .pickle_standins import (
    HARMLESS,
    Foreign,
    encoded,
    first,
    mapping,
    mapping_with_default,
    nothing,
    number_or_nothing,
    number_type,
    same_items,
    sizes,
)
from .text import LONGEST as LONGEST_NAME

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

STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
MOST_NAMES = 1000  # that are remembered; a message shows three


@dataclass(frozen=True)
class StorageType:
    """A class of storages."""

    dtype: torch.dtype


class InertUnpickler(MeteredUnpickler):
    """Reads one pickle off a file; :attr:`findings` fills meanwhile."""

    makes: ClassVar[tuple[type, ...]] = (Foreign,)

    def __init__(self, file: Readable, findings: Findings) -> None:
        super().__init__(file)
        self.findings = findings
        self._rebuild = {
            "_rebuild_tensor": self._tensor,
            "_rebuild_tensor_v2": self._tensor,
            "_rebuild_tensor_v3": self._typed_tensor,
            "_rebuild_parameter": first,
            "_rebuild_parameter_with_state": first,
        }

    def find_class(self, module: str, name: str) -> object:
        """A stand-in for ``module.name``; nothing is imported."""
        if module in STORAGE_MODULES and name in STORAGES:
            return StorageType(STORAGES[name])
        if module == "torch._utils" and name in self._rebuild:
            return self._rebuild[name]
        if module == "torch" and isinstance(kind := vars(torch).get(name), torch.dtype):  # getattr: lazy modules
            return kind
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return self._tensor_of_type
        if (known := PLAIN.get((module, name))) is not None:
            return known
        if (module, name) in HARMLESS:
            self.findings.harmless[f"{module}.{name}"] = None
            return Foreign
        self.ask(module, name)
        return Foreign

    def ask(self, module: str, name: str) -> None:
        """Note a name that weights have no use for."""
        if len(self.findings.foreign) < MOST_NAMES:
            # cut before they are joined: a file can join the same two long texts a million times
            self.findings.foreign[f"{module[:LONGEST_NAME]}.{name[:LONGEST_NAME]}"] = None
        self.findings.whole_model |= module.startswith("torch.nn.modules.")

    def persistent_load(self, identifier: object) -> object:
        """Storages, as torch points at them from its pickle."""
        if type(identifier) is not tuple or len(identifier) < 2:
            raise pickle.UnpicklingError("it points at something that is not a storage")
        if identifier[0] == "module":  # torch before 1.6
            self.findings.whole_model = True
            return Foreign
        kind, storage_type, key, _, count, *view = identifier
        if kind != "storage" or type(key) is not str or not isinstance(storage_type, StorageType):
            raise pickle.UnpicklingError("it points at something that is not a storage")
        if type(count) is not int or not 0 <= count < LARGEST:
            raise pickle.UnpicklingError("a storage without a length")
        whole = Storage(key, storage_type.dtype, count)
        before = self.findings.storages.setdefault(key, whole)
        if before.bytes != whole.bytes:
            raise pickle.UnpicklingError("one storage with two lengths")
        if view and view[0] is not None:
            _, offset, length = view[0]
            if type(offset) is not int or type(length) is not int or not 0 <= offset <= offset + length <= count:
                raise pickle.UnpicklingError("a view reaches past its storage")
            return Storage(key, whole.dtype, length, offset)
        return whole

    def _tensor(self, storage: object, offset: Any, shape: object, stride: object, *rest: object) -> DeclaredTensor:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        if not isinstance(shape, tuple | list) or not isinstance(stride, tuple | list):
            raise pickle.UnpicklingError("a tensor without a shape")
        tensor = DeclaredTensor(storage, offset, tuple(shape), tuple(stride))
        self.findings.tensors.append(tensor)
        return tensor

    def _typed_tensor(
        self,
        storage: object,
        offset: Any,
        shape: object,
        stride: object,
        grad: object,
        hooks: object,
        dtype: object,
        *rest: object,
    ) -> DeclaredTensor:
        """A tensor in a storage that has no type of its own."""
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a tensor without a type")
        count = storage.bytes // dtype.itemsize
        return self._tensor(Storage(storage.key, dtype, count), offset, shape, stride)

    def _tensor_of_type(self, rebuild: Any, kind: object, arguments: object, *rest: object) -> object:
        """A tensor that has attributes besides."""
        if rebuild not in self._rebuild.values() or type(arguments) is not tuple:
            raise pickle.UnpicklingError("a tensor of another kind")
        self.charge(arguments)
        return rebuild(*arguments)


PLAIN: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): mapping,
    ("collections", "defaultdict"): mapping_with_default,
    ("collections", "Counter"): same_items,  # milestones of a schedule
    ("torch", "Size"): sizes,
    ("torch", "device"): nothing,
    ("torch", "Tensor"): nothing,
    ("torch.nn.parameter", "Parameter"): nothing,
    ("_codecs", "encode"): encoded,
    ("numpy", "dtype"): number_type,
    ("numpy.core.multiarray", "scalar"): number_or_nothing,
    ("numpy._core.multiarray", "scalar"): number_or_nothing,
    ("builtins", "set"): same_items,
    ("__builtin__", "set"): same_items,
}
"""What a file of weights may name besides tensors."""


def follow(file: Readable, findings: Findings, reader: type[InertUnpickler] = InertUnpickler) -> object:
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
        findings.stopped = isinstance(error, Stopped | MemoryError)
        findings.failure = "it ends in the middle" if isinstance(error, EOFError) else reason
        return None
