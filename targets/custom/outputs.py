"""What a network returns, and which part of it is what.

Published classifiers disagree: logits alone, ``(features, logits)``, ``(logits, features)`` (DMMIA's released code),
``(features, softmax, argmax)`` (GMI's IR152), a one-element list (GMI's FaceNet), a mapping. The parts are told apart
by their shapes, once, when a model is taken in; the roles stand on its card ever after.

Legend: N images, C classes, D feature dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mibench.api import MibenchError

ROLES = ("features", "logits", "probabilities", "other")
TINY = 1e-30  # below every probability that float32 softmax gives and that can matter
SUM_TOLERANCE = 1e-3  # of probabilities: float16 models sum to 1 within this


def dense(tensor: Tensor) -> Tensor:
    """The plain tensor that a subclass wraps.

    Raises:
        MibenchError: a tensor without one number in memory for each element.
    """
    kind = (
        "nested" if tensor.is_nested
        else "quantised" if tensor.is_quantized
        else "meta" if tensor.is_meta
        else "sparse" if tensor.layout != torch.strided
        else None
    )  # fmt: skip
    if kind is not None:
        raise MibenchError(f"the model returns a {kind} tensor", cure="let it return a dense one, of plain numbers")
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def tensors_of(returned: Any) -> list[Tensor]:
    """Every tensor of what a network returned, in order: itself, or those in (nested) sequences and mappings."""
    if isinstance(returned, Tensor):
        return [returned]
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, Sequence) and not isinstance(returned, str):
        return [tensor for part in returned for tensor in tensors_of(part)]
    return []


def are_probabilities(scores: Tensor) -> bool:
    """Whether rows ``(N, C)`` are distributions: within [0, 1] and summing to 1."""
    scores = scores.float()
    sums = scores.sum(dim=1)
    return bool((scores >= 0).all() and (scores <= 1).all() and ((sums - 1).abs() < SUM_TOLERANCE).all())


def recognise(tensors: Sequence[Tensor], classes: int, count: int = 2) -> tuple[str, ...]:
    """The role of each tensor that a network returned for ``count`` images, at least two.

    Raises:
        MibenchError: none of them can be the scores of ``classes`` classes, or several can.
    """
    wide = [i for i, t in enumerate(tensors) if t.is_floating_point() and t.shape == (count, classes)]
    if not wide:
        shapes = ", ".join(map(_described, tensors)) or "no tensor"
        fits = any(t.is_floating_point() and t.ndim == 2 and t.shape[1] == classes for t in tensors)
        cure = "give data with one directory for each class of the model, in its order"
        raise MibenchError(
            f"the model returns {shapes} for {count} images, the data has {classes} identities: expected scores "
            f"of shape ({count}, {classes})",
            cure=f"{('it must return one row for each image' if fits else cure)}",
        )
    scores = wide[0] if len(wide) == 1 else _scores_among(tensors, wide)
    roles = ["other"] * len(tensors)
    roles[scores] = "probabilities" if are_probabilities(tensors[scores]) else "logits"
    vectors = [
        i for i, t in enumerate(tensors)
        if i not in wide and t.is_floating_point() and t.ndim >= 2 and t.shape[0] == count
    ]  # fmt: skip
    if vectors:
        roles[vectors[-1]] = "features"  # of several the deepest: hidden layers are returned first to last
    return tuple(roles)


def _described(tensor: Tensor) -> str:
    """``(2, 5)``, with the type where that is no score's."""
    shape = f"({', '.join(map(str, tensor.shape))})"
    return shape if tensor.is_floating_point() else f"{shape} of {str(tensor.dtype).removeprefix('torch.')}"


def _scores_among(tensors: Sequence[Tensor], wide: Sequence[int]) -> int:
    """Which of several ``(N, C)`` is the scores: the one whose softmax is another, else nobody can tell."""
    for first in wide:
        for other in wide:
            if first != other and torch.allclose(tensors[first].float().softmax(1), tensors[other].float(), atol=1e-4):
                return first
    raise MibenchError(
        f"the model returns {len(wide)} tensors as wide as there are classes",
        cure="say which is which with --outputs, such as --outputs features,logits",
    )


def check_roles(roles: Sequence[str], tensors: Sequence[Tensor], classes: int) -> None:
    """Hold declared roles against what the network returned.

    Raises:
        MibenchError: an unknown role, as many roles as there are no tensors, no scores or two, or another width.
    """
    for role in roles:
        if role not in ROLES:
            raise MibenchError(f"--outputs: unknown role {role!r} (known: {', '.join(ROLES)})")
    if len(roles) != len(tensors):
        raise MibenchError(f"--outputs names {len(roles)} tensors, the model returns {len(tensors)}")
    scores = [index for index, role in enumerate(roles) if role in ("logits", "probabilities")]
    if len(scores) != 1 or roles.count("features") > 1:
        raise MibenchError("--outputs must name exactly one of logits and probabilities, and features at most once")
    shape = tuple(tensors[scores[0]].shape)
    if len(shape) != 2 or shape[1] != classes:
        raise MibenchError(
            f"--outputs: the {roles[scores[0]]} have shape {shape}, the data has {classes} identities; "
            "is the order of the roles right?"
        )


def read(tensors: Sequence[Tensor], roles: Sequence[str], count: int, classes: int) -> tuple[Tensor | None, Tensor]:
    """Features ``(N, D)`` (None where no role names them) and raw logits ``(N, C)``, float32, of ``count`` images.

    Probabilities come back as their logarithm: its softmax is the same probabilities.

    Raises:
        MibenchError: another number of tensors than roles, or not one row for each image: the network does not always
            return the same.
    """
    if len(tensors) != len(roles):
        raise MibenchError(f"the model returned {len(tensors)} tensors, {len(roles)} when it was taken in")
    named = dict(zip(roles, tensors, strict=True))
    scores = named["logits"] if "logits" in named else named["probabilities"]
    if scores.shape != (count, classes):
        raise MibenchError(
            f"the model returns scores {_described(scores)} for {_images(count)}, expected ({count}, {classes}): it "
            "must keep the axis of images, also for a single one"
        )
    logits = scores.float() if "logits" in named else scores.float().clamp_min(TINY).log()
    return (rows(named["features"], count) if "features" in named else None), logits


def rows(features: Tensor, count: int) -> Tensor:
    """Features ``(N, D)``, float32, of what stands for them.

    Raises:
        MibenchError: not one row for each image.
    """
    if features.ndim == 0 or features.shape[0] != count:
        raise MibenchError(
            f"the features of the model are {_described(features)} for {_images(count)}: the first axis there is not "
            "that of images"
        )
    return features.float().flatten(1) if features.ndim > 1 else features.float().unsqueeze(1)


def _images(count: int) -> str:
    return "one image alone" if count == 1 else f"{count} images"
