"""What pickles of StyleGAN2-ADA may name, and the records that stand in for it.

The names in :data:`ALLOWED` are all that such files use; whatever else one asks for is noted and refused. Nothing is
computed while a pickle is followed: networks, tensors, storages and numbers are records of what the file claims.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .pickle_inspector import InertUnpickler
from .pickle_standins import Foreign, NumberType, encoded, mapping, nothing, number, sizes
from .text import shown


@dataclass(frozen=True, eq=False)
class Network:
    """A persistent object without its source."""

    class_name: str
    state: dict[object, object]


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


def _network(meta: object) -> Network:
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
        raise pickle.UnpicklingError("a persistent object that is not a network")
    return Network(shown(meta.get("class_name")), meta["state"])


def _blob(content: object) -> Blob:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a storage that is not of bytes")
    return Blob(content)


def _tensor(blob: object, offset: Any, shape: object, stride: object, *rest: object) -> Claim:
    if not isinstance(blob, Blob) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise pickle.UnpicklingError("a tensor without a storage")
    return Claim(blob, offset, shape, stride)


def _parameter(data: object, *rest: object) -> Claim:
    if not isinstance(data, Claim):
        raise pickle.UnpicklingError("a parameter that is not a tensor")
    return data


def _names(items: object = ()) -> object:
    """A set of names; nothing here needs more than a list."""
    if not isinstance(items, list | tuple):
        raise pickle.UnpicklingError("a set of no list")
    return items


class _Dict(dict[object, object]):
    """The class of an EasyDict: a pickle makes it without calling it. Attributes say nothing about weights."""

    __slots__ = ()

    def __init__(self, items: object = ()) -> None:
        super().__init__(mapping(items))

    def __setstate__(self, state: object) -> None:
        pass


ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _network,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("collections", "OrderedDict"): mapping,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _blob,
    ("torch", "Size"): sizes,
    ("torch", "device"): nothing,
    ("numpy.core.multiarray", "scalar"): number,
    ("numpy._core.multiarray", "scalar"): number,
    ("numpy", "dtype"): NumberType,
    ("builtins", "set"): _names,
    ("__builtin__", "set"): _names,
    ("_codecs", "encode"): encoded,
}
"""Everything that a file may name, and what stands in for it."""


class StyleGANReader(InertUnpickler):
    """Knows the names above and no others; storages lie in the pickle itself, so nothing is pointed at."""

    makes = (Foreign, _Dict)

    def find_class(self, module: str, name: str) -> object:
        known = ALLOWED.get((module, name))
        if known is None:
            self.ask(module, name)
            return Foreign
        return known

    def persistent_load(self, identifier: object) -> object:
        raise pickle.UnpicklingError("it points outside the pickle")
