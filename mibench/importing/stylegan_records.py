"""What pickles of StyleGAN2-ADA may name, and the records that stand in for it.

The names in :data:`ALLOWED` are all that such files use; whatever else one asks for is noted and refused. Nothing is
computed while a pickle is followed: networks, tensors, storages and numbers are records of what the file claims.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .inert import NUMBER_DTYPE, Foreign, InertUnpickler
from .wording import shown


@dataclass(frozen=True, eq=False)
class Network:
    """A persistent object without its source."""

    class_name: str
    state: dict[Any, Any]


@dataclass(frozen=True, eq=False)
class Blob:
    """A storage as ``torch.save`` wrote it into the pickle, unread."""

    content: bytes


@dataclass(frozen=True, eq=False)
class Claim:
    """A tensor: a window into a storage."""

    blob: Blob
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _network(meta: Any) -> Network:
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
        raise pickle.UnpicklingError("a persistent object that is not a network")
    return Network(str(meta.get("class_name"))[:100], meta["state"])


def _blob(content: Any) -> Blob:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a storage that is not of bytes")
    return Blob(content)


def _tensor(blob: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Claim:
    if not isinstance(blob, Blob) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise pickle.UnpicklingError("a tensor without a storage")
    return Claim(blob, offset, shape, stride)


def _parameter(data: Any, *rest: Any) -> Claim:
    if not isinstance(data, Claim):
        raise pickle.UnpicklingError("a parameter that is not a tensor")
    return data


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes in protocol 2. The real function imports the module of any codec it is asked for."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in an encoding other than latin1")
    return text.encode("latin1")


class _NumberType:
    """A NumPy dtype of numbers. The real one takes object dtypes and any state."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *rest: Any) -> None:
        if not isinstance(code, str) or not NUMBER_DTYPE.match(code):
            raise pickle.UnpicklingError(f"a NumPy value that is not a number ({shown(code)})")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a NumPy type in an unknown state")
        self.order = state[1]


def _number(kind: Any, content: Any) -> float | int | bool:
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a NumPy value that is not a number")
    (value,) = np.frombuffer(content, dtype=kind.order + kind.code).tolist()  # one item, or it fails
    number: float | int | bool = value
    return number


def _sizes(items: Any = ()) -> tuple[int, ...]:
    if not isinstance(items, tuple | list) or not all(type(item) is int for item in items):
        raise pickle.UnpicklingError("a shape that is not of whole numbers")
    return tuple(items)


def _device(*arguments: Any) -> None:
    """Where the tensor was: it will be on the CPU."""


def _set(items: Any = ()) -> list[Any]:
    """A set of names; nothing here needs more than a list."""
    if not isinstance(items, list | tuple):
        raise pickle.UnpicklingError("a set of no list")
    return list(items)


class _Dict(dict[Any, Any]):
    """The class of an EasyDict: a pickle makes it without calling it. Attributes say nothing about weights."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _network,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _blob,
    ("torch", "Size"): _sizes,
    ("torch", "device"): _device,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy", "dtype"): _NumberType,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("_codecs", "encode"): _encoded,
}
"""Everything that a file may name, and what stands in for it."""


class StyleGANReader(InertUnpickler):
    """Knows the names above and no others; storages lie in the pickle itself, so nothing is pointed at."""

    def find_class(self, module: str, name: str) -> Any:
        known = ALLOWED.get((module, name))
        if known is None:
            self.findings.foreign.append(f"{module}.{name}")
            return Foreign
        return known

    def persistent_load(self, identifier: Any) -> Any:
        raise pickle.UnpicklingError("it points outside the pickle")
