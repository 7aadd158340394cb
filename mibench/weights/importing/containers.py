"""Finds the weights in what a file holds: containers, prefixes of wrappers, and whatever else was saved with them.

Only plain dicts and lists are searched; tensors in them are
:class:`~mibench.weights.importing.claimed_sizes.DeclaredTensor`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mibench.errors import MibenchError

from .claimed_sizes import DeclaredTensor
from .text import LONGEST, listed, shown

CONTAINERS = (  # KEDMI and BiDO; PPA; PLG-MI; then what training frameworks and scripts write
    "state_dict", "model_state_dict", "model", "net", "network", "model_state", "net_state_dict", "module", "weights",
    "params",
)  # fmt: skip
OLD_CONTAINERS = CONTAINERS[:3]  # what stands under these names is no fact about the training
PREFIXES = ("module.", "model.", "_orig_mod.", "_module.")  # DataParallel; PPA; torch.compile; Opacus
OPTIMISERS = ("opt", "optim", "scheduler", "scaler", "ema_optim", "lr_sched", "grad_scaler")  # keys that hold no facts
AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel, whose weights are under module.
MOST_EXTRAS = 10_000  # values, and hundreds of characters; a pickle can refer to one list a billion times
MOST_PREFIXES = 8
DEEPEST = 3  # mappings in mappings that are searched for weights
WORDS = (str, int, float, bool, type(None))
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Unpacked(Generic[T]):
    """Tensors without wrapper prefixes, and what the file says besides.

    Attributes:
        container: where the weights were.
        tensors: key -> tensor.
        stripped: prefixes that were taken off.
        averaged: the counter of an averaged model.
        others: places of other weights in the file.
        extras: plain values.
    """

    container: str
    tensors: dict[str, T]
    stripped: tuple[str, ...]
    averaged: T | None = None
    others: tuple[str, ...] = ()
    extras: dict[str, object] = field(default_factory=dict)


def unpack(content: object, source: str, choice: str | None = None) -> Unpacked[DeclaredTensor]:
    """Find the weights in a loaded object.

    Args:
        content: the object.
        source: the file, for messages.
        choice: which of several sets of weights, by its place: a name, or names joined by dots.

    Raises:
        MibenchError: there are no tensors, they have no names, or there are several sets and none was chosen.
    """
    if not isinstance(content, dict):
        what = "Tensor" if isinstance(content, DeclaredTensor) else type(content).__name__
        raise MibenchError(f"{source} holds a {what}, not named weights", cure="save the network's state_dict()")
    sets = dict(_sets(content, ()))
    address = _chosen(content, sets, source, choice)
    held = (sets.get(address) or content[address]) if address else content
    tensors: dict[Any, DeclaredTensor] = {k: value for k, value in held.items() if isinstance(value, DeclaredTensor)}
    if not tensors:
        raise MibenchError(
            f"{source} holds no weights, only {listed(content) or 'an empty mapping'}",
            cure="name the file of the network",
        )
    check_names(tensors, source)
    metadata = {**(content if held is not content else {}), **held}
    tops = {address.partition(".")[0] for address in sets}
    leftovers = {
        key: value
        for key, value in metadata.items()
        if isinstance(key, str)
        and key not in tensors
        and key not in OLD_CONTAINERS
        and key not in tops
        and not key.lower().startswith(OPTIMISERS)
    }
    tensors, stripped, averaged = strip(tensors)
    return Unpacked(
        container=address or "bare",
        tensors=tensors,
        stripped=stripped,
        averaged=averaged,
        others=tuple(shown(other) for other in sets if other != address)[:5],
        extras=plain_only(leftovers),
    )


def _chosen(
    content: dict[object, object], sets: Mapping[str, dict[object, object]], source: str, choice: str | None
) -> str:
    """The place of the weights; "": the file itself."""
    if choice is not None:
        if choice not in sets:
            raise MibenchError(f"{source} holds no weights named {shown(choice)} (it has: {listed(sets) or 'one set'})")
        return choice
    for name in CONTAINERS:
        inner = content.get(name)
        if isinstance(inner, dict) and (name in sets or any(isinstance(v, DeclaredTensor) for v in inner.values())):
            return name
    if not sets or _is_set(content):
        return ""
    if len(sets) > 1:
        raise MibenchError(
            f"{source} holds several sets of weights ({listed(sets, most=8)})",
            cure=f"say which one is meant: {source}::{shown(next(iter(sets)))}",
        )
    return next(iter(sets))


def _sets(
    held: dict[object, object] | list[object], path: tuple[str, ...], budget: list[int] | None = None
) -> Iterator[tuple[str, dict[object, object]]]:
    """Mappings of weights inside others, by their place: ``net``, ``models.0``."""
    budget = [MOST_EXTRAS] if budget is None else budget
    pairs = held.items() if isinstance(held, dict) else enumerate(held)
    for key, value in pairs:
        budget[0] -= 1
        if budget[0] < 0:
            return
        if not isinstance(value, dict | list) or not isinstance(key, str | int):
            continue
        name = shown(key)
        if name.lower().startswith(OPTIMISERS):
            continue
        address = (*path, name)
        if isinstance(value, dict) and _is_set(value):
            yield ".".join(address), value
        elif len(address) < DEEPEST:
            yield from _sets(value, address, budget)


def _is_set(held: Mapping[object, object]) -> bool:
    """Whether these are weights, rather than counters and states of random numbers."""
    return any(
        isinstance(value, DeclaredTensor) and value.shape and value.storage.dtype.is_floating_point
        for value in held.values()
    )


def check_names(tensors: Mapping[Any, object], source: str) -> None:
    """Refuse names that are no text, or would write on a terminal from within a message."""
    for key in tensors:
        if not isinstance(key, str):
            raise MibenchError(f"{source} names a tensor {shown(key)}, which is no text", cure="save a state_dict()")
        if not key.isprintable():
            raise MibenchError(
                f"{source} names a tensor {shown(key)}, which cannot be printed", cure="save a state_dict()"
            )
        if len(key) > 10 * LONGEST:
            raise MibenchError(
                f"{source} names a tensor {shown(key)}, {len(key):,} characters", cure="save a state_dict()"
            )


def strip(tensors: dict[str, T]) -> tuple[dict[str, T], tuple[str, ...], T | None]:
    """Take wrapper prefixes off, outermost first, as long as every key carries the same one.

    Returns:
        The tensors, the prefixes, and the counter of an averaged model, which stands beside its ``module.``
    """
    stripped: list[str] = []
    averaged: T | None = None
    inside = {key: value for key, value in tensors.items() if key != AVERAGED}
    if len(inside) == len(tensors) - 1 > 0 and all(key.startswith("module.") for key in inside):
        averaged, tensors = tensors[AVERAGED], inside
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        stripped.append(prefix)
        if len(stripped) == MOST_PREFIXES:
            break
    return tensors, tuple(stripped), averaged


def common_prefix(keys: Iterable[str]) -> str:
    """``net.``, where every key begins with it and goes on; "" where there is none."""
    heads = {key.partition(".")[0] if "." in key else "" for key in keys}
    (head,) = heads if len(heads) == 1 else ("",)
    return f"{head}." if head else ""


def plain_only(values: Mapping[Any, object]) -> dict[str, object]:
    """What can be kept as plain values: text, numbers, and lists and mappings of them. The rest is dropped."""
    budget = [MOST_EXTRAS]
    plain = {shown(key): _plain(value, budget, depth=0) for key, value in values.items()}
    return {key: value for key, value in plain.items() if value is not _DROPPED}


_DROPPED = object()


def _plain(value: object, budget: list[int], depth: int) -> object:
    budget[0] -= 1
    if budget[0] < 0 or depth > 8:
        return _DROPPED
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):  # a file can refer to one long text thousands of times
        budget[0] -= len(value) // LONGEST
        return value if budget[0] >= 0 else _DROPPED
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else _DROPPED
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON and YAML have no NaN
    if isinstance(value, Mapping):
        known = ((key, item) for key, item in value.items() if isinstance(key, WORDS))
        pairs = {shown(key): _plain(item, budget, depth + 1) for key, item in known if budget[0] > 0}
        return {key: item for key, item in pairs.items() if item is not _DROPPED}
    if isinstance(value, list | tuple | set):
        items = [_plain(item, budget, depth + 1) for item in value if budget[0] > 0]
        return [item for item in items if item is not _DROPPED]
    return _DROPPED
