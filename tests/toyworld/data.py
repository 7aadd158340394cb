"""Faces of four grey patches: the patches' brightnesses are the identity."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import MibenchError
from mibench.data.split import GroundTruth, IdentitySplit, Images, Part, to_uint8
from mibench.rng import stream


def draw(vectors: Tensor, size: int) -> Tensor:
    """Images ``(N, 3, size, size)`` of identity vectors ``(N, 4)``: one patch per coordinate."""
    patches = vectors.view(-1, 1, 2, 2).expand(-1, 3, -1, -1)
    return torch.nn.functional.interpolate(patches, size=(size, size), mode="nearest")


@dataclass(frozen=True, kw_only=True)
class ToyFaces(IdentitySplit, GroundTruth):
    """Six private and twelve public people."""

    name: ClassVar[str] = "toyfaces"
    identity_dim: ClassVar[int] = 4

    seed: int = 0
    persons: int = 6
    images: int = 5
    noise: float = 0.03
    overlap: bool = False  # puts a private person on the public side: the referee must notice

    def __post_init__(self) -> None:
        if self.persons < 1:
            raise MibenchError(f"toyfaces: persons must be at least 1, got {self.persons}")

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.persons

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:16]

    def _vectors(self, role: str, count: int) -> Tensor:
        return torch.rand(count, 4, generator=stream(self.seed, "toyfaces", role))

    def _images(self, role: str, vectors: Tensor, size: int) -> Tensor:
        noise = torch.randn(len(vectors), 3, 1, 1, generator=stream(self.seed, "noise", role))
        return to_uint8(draw(vectors, size) + self.noise * noise)

    def private(self, part: Part, size: int, labels: Sequence[int] | None = None) -> Images:
        chosen = torch.arange(self.persons).repeat_interleave(self.images)
        pixels = self._images(part, self._vectors("private", self.persons)[chosen], size)
        keep = torch.isin(chosen, torch.tensor(range(self.persons) if labels is None else list(labels)))
        return Images(pixels[keep], chosen[keep], tuple(f"private-{label}" for label in chosen[keep].tolist()))

    def public(self, size: int, count: int | None = None) -> Images:
        total = 24 if count is None else min(count, 24)
        people = torch.arange(24) % 12
        pixels = self._images("public", self._vectors("public", 12)[people], size)[:total]
        names = tuple(f"public-{person}" for person in people[:total].tolist())
        if self.overlap:
            names = ("private-0", *names[1:])
        return Images(pixels, torch.full((total,), -1), names)

    def identity_vectors(self, labels: Sequence[int] | None = None) -> Tensor:
        vectors = self._vectors("private", self.persons)
        return vectors if labels is None else vectors[list(labels)]

    def public_identity_vectors(self, count: int | None = None) -> Tensor:
        people = torch.arange(24 if count is None else count) % 12
        return self._vectors("public", 12)[people]

    def foreign_identity_vectors(self, count: int) -> Tensor:
        return self._vectors("foreign", count)
