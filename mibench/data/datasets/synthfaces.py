"""``synthfaces``: a procedural world of faces in which the truth about every identity is known.

Nothing is downloaded and nothing is stored: image ``j`` of person ``i`` is a pure function of the seed, of ``i`` and of
``j``, so any part of the world can be rendered at any size at any time, in any order, and stays the same.

Private people are the classes of the targets; public people are others, seen by another camera (``shift``) and in
calmer scenes (``public_nuisance``), as FFHQ differs from CelebA; foreign people appear on no image and serve as
distractors when identities are ranked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mibench.api import MibenchError
from mibench.data.datasets.synthfaces_render import IDENTITY, NUISANCE, RENDERER_VERSION, render
from mibench.data.split import GroundTruth, IdentitySplit, Images, Part, to_uint8

_PRIVATE, _PUBLIC, _FOREIGN = 1, 2, 3
_PORTRAIT, _FRESH = 4, 5  # further pictures of private people; streams that no other picture is drawn from
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One round of a 64-bit finaliser (the constants are those of SplitMix64)."""
    with np.errstate(over="ignore"):
        state = (state + np.uint64(0x9E3779B97F4A7C15)) & _MASK
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def hashed_uniforms(keys: Sequence[np.ndarray | int], columns: int) -> Tensor:
    """Uniform numbers that depend on integer keys only: random access instead of a sequence.

    Args:
        keys: integers or arrays ``(N,)``; their order matters.
        columns: how many numbers per row.

    Returns:
        float32 ``(N, columns)`` in [0, 1).
    """
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = _mix(state ^ np.asarray(key, dtype=np.uint64))
    grid = _mix(np.atleast_1d(state)[:, None] ^ _mix(np.arange(1, columns + 1, dtype=np.uint64))[None, :])
    return torch.from_numpy((grid >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


@dataclass(frozen=True, kw_only=True)
class SynthFaces(IdentitySplit, GroundTruth):
    """The world's settings; each is part of :attr:`digest`.

    The defaults are the *standard* world, calibrated so that attacks can be told apart (docs/synthfaces.md):
    ``benchmarks/calibrate_world.py`` measures judge, linear classifier and floor for any other setting.
    """

    name: ClassVar[str] = "synthfaces"
    protocol: ClassVar[str] = "demo"
    identity_dim: ClassVar[int] = len(IDENTITY)

    seed: int = 0
    identities: int = 300  # private people, the classes of a target
    train_images: int = 50  # per private person
    test_images: int = 10  # per private person
    public_identities: int = 8000
    public_images: int = 40000  # dealt out evenly over the public people
    spread: float = 0.65  # how far people lie from the mean face: smaller is harder
    nuisance: float = 1.0  # pose, light, colour, occlusion, noise: larger is harder
    shift: float = 0.5  # how far the public camera's colours and exposure lie from the private ones
    public_nuisance: float = 0.35  # nuisances of public images as a share of the private ones: portraits, as in FFHQ

    def __post_init__(self) -> None:
        for field, low in (("identities", 2), ("train_images", 1), ("test_images", 1), ("public_identities", 1)):
            if getattr(self, field) < low:
                raise MibenchError(f"synthfaces: {field} must be at least {low}, got {getattr(self, field)}")
        for field, high in (("spread", 1.0), ("nuisance", 2.0), ("shift", 1.0), ("public_nuisance", 1.0)):
            if not 0 <= getattr(self, field) <= high:
                raise MibenchError(f"synthfaces: {field} must lie in [0, {high}], got {getattr(self, field)}")

    @property
    def num_classes(self) -> int:
        """One class per private person."""
        return self.identities

    @property
    def digest(self) -> str:
        """SHA-256 over the renderer's version and every setting, 16 hexadecimal digits."""
        text = json.dumps({"renderer": RENDERER_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def private(self, part: Part, size: int, labels: Sequence[int] | None = None) -> Images:
        """Private images; the test images of a person follow the train images in the person's own sequence."""
        classes = self._classes(labels)
        first, count = (0, self.train_images) if part == "train" else (self.train_images, self.test_images)
        people = np.repeat(classes, count)
        takes = np.tile(np.arange(first, first + count), classes.size)
        return self._images(_PRIVATE, people, takes, size, torch.from_numpy(people.copy()))

    def public(self, size: int, count: int | None = None) -> Images:
        """Public images: image ``k`` shows person ``k mod public_identities``."""
        people, takes = self._public_order(count)
        return self._images(_PUBLIC, people, takes, size, torch.full((people.size,), -1, dtype=torch.int64))

    def portraits(self, size: int, count: int, labels: Sequence[int] | None = None) -> Images:
        """Private people as the public camera shows people: its colours, its calm scenes, other pictures than any."""
        return self._more(_PORTRAIT, size, count, labels)

    def fresh(self, size: int, count: int, labels: Sequence[int] | None = None, first: int = 0) -> Images:
        """``count`` pictures of each private person by the private camera, from number ``first`` on, that are neither
        training nor test images: what a classifier learns from that shares no picture with a target."""
        return self._more(_FRESH, size, count, labels, first)

    def _more(self, stream: int, size: int, count: int, labels: Sequence[int] | None, first: int = 0) -> Images:
        classes = self._classes(labels)
        people = np.repeat(classes, count)
        takes = np.tile(np.arange(first, first + count), classes.size)
        return self._images(_PRIVATE, people, takes, size, torch.from_numpy(people.copy()), stream)

    def public_count(self) -> int:
        """As the settings say."""
        return self.public_images

    def people(self, side: Literal["private", "public"]) -> frozenset[str]:
        """Keys of everybody on one side, without rendering anything."""
        count = self.identities if side == "private" else min(self.public_identities, self.public_images)
        return frozenset(f"{side}-{person}" for person in range(count))

    def identity_vectors(self, labels: Sequence[int] | None = None) -> Tensor:
        """The truth about private people ``(n, 36)``; columns are named by ``synthfaces_render.IDENTITY``."""
        people = np.arange(self.identities) if labels is None else np.asarray(labels)
        return self._vectors(_PRIVATE, people)

    def public_identity_vectors(self, count: int | None = None) -> Tensor:
        """The truth about the person on each of the first ``count`` public images."""
        return self._vectors(_PUBLIC, self._public_order(count)[0])

    def foreign_identity_vectors(self, count: int) -> Tensor:
        """People who appear on no image at all."""
        return self._vectors(_FOREIGN, np.arange(count))

    def _classes(self, labels: Sequence[int] | None) -> np.ndarray:
        classes = np.arange(self.identities) if labels is None else np.asarray(labels, dtype=np.int64)
        if classes.size and (classes.min() < 0 or classes.max() >= self.identities):
            raise MibenchError(f"synthfaces has classes 0 to {self.identities - 1}, got {sorted(set(classes))[-1]}")
        return classes

    def _public_order(self, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        total = self.public_images if count is None else count
        if not 0 <= total <= self.public_images:
            raise MibenchError(f"synthfaces has {self.public_images} public images, {total} were asked for")
        index = np.arange(total)
        return index % self.public_identities, index // self.public_identities

    def _vectors(self, role: int, people: np.ndarray) -> Tensor:
        return hashed_uniforms([self.seed, role, people], len(IDENTITY))

    def _images(
        self, role: int, people: np.ndarray, takes: np.ndarray, size: int, labels: Tensor, stream: int | None = None
    ) -> Images:
        """Pictures ``takes`` of people of a ``role``, their scenes drawn from a ``stream`` (None: the role's own)."""
        if not 16 <= size <= 256:
            raise MibenchError(f"synthfaces renders 16 to 256 pixels a side, {size} was asked for")
        identity = self._vectors(role, people)
        nuisance = hashed_uniforms([self.seed, (stream or role) + 16, people, takes], len(NUISANCE))
        strength, shift = self.nuisance, 0.0
        if role == _PUBLIC or stream == _PORTRAIT:
            strength, shift = self.nuisance * self.public_nuisance, self.shift
        pixels = torch.empty(people.size, 3, size, size, dtype=torch.uint8)
        for start in range(0, people.size, 512):  # float images of one stretch at a time, to bound the memory
            part = slice(start, start + 512)
            pixels[part] = to_uint8(
                render(identity[part], nuisance[part], size, spread=self.spread, strength=strength, shift=shift)
            )
        letter = {_PRIVATE: "private", _PUBLIC: "public"}[role]
        return Images(pixels, labels, tuple(f"{letter}-{person}" for person in people))
