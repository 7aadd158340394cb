"""Finds the tensors in what a file holds: containers, prefixes of wrappers, and whatever else was saved with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mibench.errors import MibenchError

from .wording import listed, shown

CONTAINERS = ("state_dict", "model_state_dict", "model")  # KEDMI and BiDO; PPA; PLG-MI; anything else is bare
PREFIXES = ("module.", "model.", "_orig_mod.")  # DataParallel; PPA's wrapper; torch.compile
OPTIMISERS = ("opt", "optim", "scheduler", "scaler", "ema_optim")  # beginnings of keys that hold no facts
MOST_EXTRAS = 10_000  # values; a pickle can refer to one list a billion times


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """Tensors without wrapper prefixes, and what the file says besides."""

    container: str
    tensors: dict[str, Tensor]
    stripped: tuple[str, ...]
    extras: dict[str, Any] = field(default_factory=dict)


def unpack(content: Any, source: str) -> Unpacked:
    """Find the state dict in a loaded object.

    Raises:
        MibenchError: there are no tensors, or they have no names.
    """
    if not isinstance(content, Mapping):
        raise MibenchError(
            f"{source} holds a {type(content).__name__}, not named weights; save the network's state_dict()"
        )
    container, held = "bare", content
    for name in CONTAINERS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            container, held = name, inner
            break
    tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)}
    if not tensors:
        raise MibenchError(
            f"{source} holds no weights, only {listed(content) or 'an empty mapping'}; name the file of the network"
        )
    check_names(tensors, source)
    odd = [key for key, value in tensors.items() if value.layout is not torch.strided or value.is_quantized]
    if odd:
        raise MibenchError(f"{source}: {shown(odd[0])} is sparse or quantised; save plain tensors")
    said = {**(content if held is not content else {}), **held}
    leftovers = {
        key: value
        for key, value in said.items()
        if isinstance(key, str)
        and key not in tensors
        and key not in CONTAINERS
        and not key.lower().startswith(OPTIMISERS)
    }
    tensors, stripped = strip(tensors)
    return Unpacked(container=container, tensors=tensors, stripped=stripped, extras=plain_only(leftovers))


def check_names(tensors: Mapping[Any, Tensor], source: str) -> None:
    """Refuse names that are no text, or would write on a terminal from within a message."""
    for key in tensors:
        if not isinstance(key, str):
            raise MibenchError(f"{source} names a tensor {shown(key)}, which is no text; save a state_dict()")
        if not key.isprintable():
            raise MibenchError(f"{source} names a tensor {shown(key)}, which cannot be printed; save a state_dict()")


def strip(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take wrapper prefixes off, outermost first, as long as every key carries the same one."""
    stripped: list[str] = []
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        stripped.append(prefix)
    return tensors, tuple(stripped)


def plain_only(values: Mapping[str, Any]) -> dict[str, Any]:
    """What can be kept as plain values: text, numbers, and lists and mappings of them. The rest is dropped."""
    budget = [MOST_EXTRAS]
    found = {shown(key): _plain(value, budget, depth=0) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not _DROPPED}


_DROPPED = object()


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > 8:
        return _DROPPED
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON and YAML have no NaN
    if isinstance(value, Mapping):
        pairs = {shown(key): _plain(item, budget, depth + 1) for key, item in value.items() if budget[0] > 0}
        return {key: item for key, item in pairs.items() if item is not _DROPPED}
    if isinstance(value, list | tuple | set):
        items = [_plain(item, budget, depth + 1) for item in value if budget[0] > 0]
        return [item for item in items if item is not _DROPPED]
    return _DROPPED
