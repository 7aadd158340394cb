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


def recognise(tensors: Sequence[Tensor], classes: int) -> tuple[str, ...]:
    """The role of each tensor that a network returned for N >= 2 images.

    Raises:
        MibenchError: none of them can be the scores of ``classes`` classes, or several can.
    """
    count = tensors[0].shape[0] if tensors and tensors[0].ndim else 0
    wide = [i for i, t in enumerate(tensors) if t.is_floating_point() and t.ndim == 2 and t.shape[1] == classes]
    if not wide:
        shapes = ", ".join(f"({', '.join(map(str, t.shape))})" for t in tensors) or "no tensor"
        raise MibenchError(
            f"the model returns {shapes} for {count} images, the data has {classes} identities: expected scores of "
            f"shape ({count}, {classes}); give data with one directory for each class of the model, in its order"
        )
    scores = wide[0] if len(wide) == 1 else _scores_among(tensors, wide)
    roles = ["other"] * len(tensors)
    roles[scores] = "probabilities" if are_probabilities(tensors[scores]) else "logits"
    vectors = [i for i, t in enumerate(tensors) if i not in wide and t.is_floating_point() and t.ndim >= 2]
    if vectors:
        roles[vectors[-1]] = "features"  # of several the deepest: hidden layers are returned first to last
    return tuple(roles)


def _scores_among(tensors: Sequence[Tensor], wide: Sequence[int]) -> int:
    """Which of several ``(N, C)`` is the scores: the one whose softmax is another, else nobody can tell."""
    for first in wide:
        for other in wide:
            if first != other and torch.allclose(tensors[first].float().softmax(1), tensors[other].float(), atol=1e-4):
                return first
    raise MibenchError(
        f"the model returns {len(wide)} tensors as wide as there are classes; say which is which with --outputs, "
        "such as --outputs features,logits"
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


def read(tensors: Sequence[Tensor], roles: Sequence[str]) -> tuple[Tensor | None, Tensor]:
    """Features ``(N, D)`` (None where no role names them) and raw logits ``(N, C)``, float32.

    Probabilities come back as their logarithm: its softmax is the same probabilities.

    Raises:
        MibenchError: another number of tensors than roles: the network does not always return the same.
    """
    if len(tensors) != len(roles):
        raise MibenchError(f"the model returned {len(tensors)} tensors, {len(roles)} when it was taken in")
    named = dict(zip(roles, tensors, strict=True))
    logits = named["logits"].float() if "logits" in named else named["probabilities"].float().clamp_min(TINY).log()
    return (named["features"].float().flatten(1) if "features" in named else None), logits
