"""What is written down: the images a network takes, and cards of trained weights. Part of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ImageSpec:
    """The images a network takes: ``size`` in pixels (square) and the normalisation applied inside the wrapper."""

    size: int
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file beside its card: name, sha256 and size in bytes."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """One set of trained weights. ``name`` reads ``architecture@dataset`` or ``architecture@dataset+tag``.

    ``reported`` is what the source of the weights claims, ``measured`` what this project measured and how.
    """

    name: str
    kind: str  # target | judge | regressor | prior | backbone
    architecture: str
    dataset: str
    image: ImageSpec
    weights: WeightsFile
    arguments: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments that build the architecture
    classes: int | None = None
    dataset_digest: str | None = None
    licence: str = "MIT"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    reported: Mapping[str, Any] | None = None
    measured: Mapping[str, Any] | None = None
    access: Literal["labels", "scores", "gradients"] = "gradients"  # the most that this network can give
    notes: str | None = None
