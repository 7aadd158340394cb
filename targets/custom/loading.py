"""Loads weights into somebody's own model strictly, after undoing what training frameworks do to their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mibench.api import MibenchError, StateDictMismatch, WeightsContents, load_strictly, mismatch_of

AVERAGED = "n_averaged"  # the counter of an averaged model
HALVES = (  # endings of the length and the direction that weight_norm makes of a weight, and the ending of the weight
    (".weight_g", ".weight_v", ".weight"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1", ".weight"),
)
NORMED = (  # endings of the weight before spectral_norm and of its two vectors
    ("_orig", "_u", "_v"),
    (".original", ".0._u", ".0._v"),
)
MASKED = ("_orig", "_mask")  # the same of pruning
SPLIT = (".weight_orig", ".weight_u", ".parametrizations.weight.original")  # spectral_norm, pruning
Weights = dict[str, Tensor]


def fill(network: nn.Module, file: WeightsContents) -> list[str]:
    """Load weights strictly: every tensor of the file into its place, and every place filled.

    Understood besides the names as they are: wrapper prefixes on either side (those that were taken off when the file
    was read, and any beginning that all keys share), and weights with weight_norm, spectral_norm or pruning on.

    Returns:
        What was done to the names, and what else the file holds.

    Raises:
        MisfitError: missing, unexpected or misshapen tensors.
        MibenchError: whole numbers in place of real ones.
    """
    wanted = network.state_dict()
    given = dict(file.tensors)
    if AVERAGED in wanted and AVERAGED in file.extras and AVERAGED not in given:
        given = {**_with("".join(file.stripped), given), AVERAGED: torch.tensor(file.extras[AVERAGED])}
    notes: list[str] = []
    for change, about in CONVENTIONS:
        changed = change(given, wanted, file.stripped)
        if changed is not None and changed.keys() == wanted.keys():
            given = changed
            notes += [f"{file.file}: {about}"] if about else []
            break

    def message(mismatch: StateDictMismatch) -> str:
        cause = _cause(mismatch, agreeing=bool(wanted.keys() & given.keys()))
        return f"{file.file} does not fit the model that the factory builds: {mismatch.summary()}; {cause}"

    if not mismatch_of(network, given):
        _check_types(wanted, given, file)
    load_strictly(network, given, message=message)
    if file.others:
        notes.append(
            f"{file.file} holds other weights too ({', '.join(file.others)}): {file.container} was taken; "
            f"--weights {file.file}::{file.others[0]} takes another"
        )
    return notes


def _check_types(wanted: Mapping[str, Tensor], given: Weights, file: WeightsContents) -> None:
    for name in wanted.keys() & given.keys():
        if wanted[name].is_floating_point() and not given[name].is_floating_point():
            kind = str(given[name].dtype).removeprefix("torch.")
            raise MibenchError(
                f"{file.file}: {name} holds {kind} where the model has real numbers", cure="save the weights as float32"
            )


def _cause(mismatch: StateDictMismatch, agreeing: bool) -> str:
    """What the differing names are evidence for; ``agreeing``: some name is on both sides."""
    if any(name.endswith(SPLIT) for name in mismatch.unexpected):
        return (
            "they were saved with spectral_norm or pruning on, or another parametrisation: take it off first, or let "
            "the factory put it on"
        )
    if any(name.endswith(ending) for name in mismatch.unexpected for halves in HALVES for ending in halves[:2]):
        return "they were saved with weight_norm on: take it off first, or let the factory put it on"
    if not agreeing:
        return "no name agrees: is it the network that these weights are of?"
    if mismatch.misshapen and not mismatch.missing and not mismatch.unexpected:
        return "was it trained with other arguments (--set model.NAME=VALUE)?"
    return "another version of the network, or other arguments (--set model.NAME=VALUE)?"


def check_numbers(network: nn.Module, source: str) -> None:
    """Refuse a model with numbers that are not finite in float32, in which it runs.

    Raises:
        MibenchError: names the first such tensor.
    """
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise MibenchError(f"{source}: {name} is not finite in float32; are its weights whole?")


# Conventions: each takes the weights, the wanted names and the prefixes that were taken off, and gives weights or None.


def _restored(given: Weights, wanted: Mapping[str, Tensor], stripped: tuple[str, ...]) -> Weights | None:
    """A network whose own attribute is called ``model`` or ``module`` gets the prefixes back."""
    prefixes = ["".join(stripped[start:]) for start in range(len(stripped), -1, -1)]
    return next((renamed for p in prefixes if (renamed := _with(p, given)).keys() == wanted.keys()), None)


def _rewrapped(given: Weights, wanted: Mapping[str, Tensor], stripped: tuple[str, ...]) -> Weights | None:
    """The beginnings that all names of a side share differ: the network was wrapped when it was saved, or is now."""
    for theirs in _beginnings(given):
        bare = {name.removeprefix(theirs): tensor for name, tensor in given.items()}
        for ours in _beginnings(wanted):
            if (renamed := _with(ours, bare)).keys() == wanted.keys():
                return renamed
    return None


def _joined(given: Weights, wanted: Mapping[str, Tensor], stripped: tuple[str, ...]) -> Weights | None:
    """Weights that weight_norm split into length and direction, for a network without it."""
    joined = dict(given)
    for lengths, directions, whole in HALVES:
        for name in [name for name in joined if name.endswith(lengths)]:
            stem = name.removesuffix(lengths)
            length, direction = joined.get(name), joined.get(stem + directions)
            if length is None or direction is None or length.ndim != direction.ndim:
                continue
            kept = [axis for axis, side in enumerate(length.shape) if side != 1] or [0]
            others = [axis for axis in range(direction.ndim) if axis not in kept]
            if len(kept) > 1 or any(length.shape[axis] != direction.shape[axis] for axis in kept):
                continue
            norm = torch.linalg.vector_norm(direction, dim=others, keepdim=True) if others else direction.abs()
            joined[stem + whole] = length * direction / norm
            del joined[name], joined[stem + directions]
    return _matching(given, joined, wanted, stripped)


def _normed(given: Weights, wanted: Mapping[str, Tensor], stripped: tuple[str, ...]) -> Weights | None:
    """Weights that spectral_norm divides by its estimate of their largest singular value, as in eval mode."""
    divided = dict(given)
    for before, left, right in NORMED:
        for name in [name for name in given if name.endswith(before)]:
            stem = name.removesuffix(before)
            weight, u, v = (given.get(stem + ending) for ending in (before, left, right))
            if weight is None or u is None or v is None or weight.ndim < 2 or u.ndim != 1 or v.ndim != 1:
                continue
            sides = [axis for axis, side in enumerate(weight.shape) if side == len(u)]
            if not sides or len(u) * len(v) != weight.numel():
                continue
            rows = [weight.movedim(axis, 0).reshape(len(u), len(v)) @ v for axis in sides]
            # of a square weight either axis fits; the vectors belong to the one whose rows they align with
            row = max(rows, key=lambda row: float(torch.nn.functional.cosine_similarity(u, row, dim=0)))
            divided[_whole(stem)] = weight / torch.dot(u, row)
            for ending in (before, left, right):
                del divided[stem + ending]
    return _matching(given, divided, wanted, stripped)


def _pruned(given: Weights, wanted: Mapping[str, Tensor], stripped: tuple[str, ...]) -> Weights | None:
    """Weights beside the mask of what was pruned of them."""
    masked = dict(given)
    before, mask = MASKED
    for name in [name for name in given if name.endswith(before)]:
        stem = name.removesuffix(before)
        if (kept := given.get(stem + mask)) is None or kept.shape != given[name].shape:
            continue
        masked[stem] = kept.to(given[name].dtype) * given[name]
        del masked[name], masked[stem + mask]
    return _matching(given, masked, wanted, stripped)


def _whole(stem: str) -> str:
    """``a.weight`` for ``a.weight`` and for ``a.parametrizations.weight``."""
    head, _, name = stem.rpartition(".")
    return f"{head.removesuffix('parametrizations')}{name}" if head.endswith("parametrizations") else stem


def _matching(given: Weights, made: Weights, wanted: Mapping[str, Tensor], stripped: tuple[str, ...]) -> Weights | None:
    if made.keys() == given.keys():
        return None
    return _restored(made, wanted, stripped) or _rewrapped(made, wanted, stripped)


CONVENTIONS: tuple[tuple[Callable[[Weights, Mapping[str, Tensor], tuple[str, ...]], Weights | None], str], ...] = (
    (_restored, ""),
    (_rewrapped, "its names begin otherwise than the model's, as a wrapper makes them; they were matched without that"),
    (_joined, "weights that weight_norm had split were joined"),
    (_normed, "weights with spectral_norm on were divided by their norm, as in eval mode"),
    (_pruned, "weights with pruning on were multiplied by their masks"),
)


def _with(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()} if prefix else weights


def _beginnings(names: Mapping[str, Tensor]) -> list[str]:
    """ "", ``a.``, ``a.b.`` as long as all names begin so and go on."""
    prefixes, rest = [""], list(names)
    while rest and all("." in name for name in rest) and len({name.partition(".")[0] for name in rest}) == 1:
        prefixes.append(f"{prefixes[-1]}{rest[0].partition('.')[0]}.")
        rest = [name.partition(".")[2] for name in rest]
        if len(prefixes) > 8:
            break
    return prefixes
