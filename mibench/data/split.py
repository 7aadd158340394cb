"""What every data set of this project offers: private and public images with disjoint identities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import MibenchError
from mibench.data.identity_names import both_spellings, normalised_name

Part = Literal["train", "test"]
_BOTH: tuple[Part, Part] = ("test", "train")


@dataclass(frozen=True)
class Images:
    """A batch of stored images.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``; class index for private images, -1 for public ones.
        identities: one key per image, unique over private *and* public people.
    """

    pixels: Tensor
    labels: Tensor
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    def floats(self) -> Tensor:
        """The images as float32 in [0, 1]."""
        return self.pixels.float() / 255


class IdentitySplit(ABC):
    """Private identities (the classes of a target) and public ones (all that an adversary may learn from).

    ``protocol`` names the evaluation protocol of a run on this data set that asks for none.
    """

    name: ClassVar[str]
    protocol: ClassVar[str] = "audit"  # any images with identities

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """How many private identities there are: the classes of a target."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of everything that decides the images: settings, lists, renderer version."""

    @abstractmethod
    def private(self, part: Part, size: int, labels: Sequence[int] | None = None) -> Images:
        """Private images of the given classes (all when None) at ``size`` pixels, ordered by class, then image."""

    @abstractmethod
    def public(self, size: int, count: int | None = None) -> Images:
        """The first ``count`` public images (all when None) at ``size`` pixels. The order is fixed."""

    def portraits(self, size: int, count: int, labels: Sequence[int] | None = None) -> Images:
        """At most ``count`` images of each private identity, ordered as :meth:`private`, that show what a perfect
        reconstruction could look like: people as the public images show people, where the data set has such images.

        Default: the first private test images, and training images where these are not enough.
        """
        test, train = (self.private(part, size, labels) for part in _BOTH)
        both = Images(
            torch.cat([test.pixels, train.pixels]),
            torch.cat([test.labels, train.labels]),
            test.identities + train.identities,
        )
        return first_of_each(both, count)

    def fresh(self, size: int, count: int, labels: Sequence[int] | None = None, first: int = 0) -> Images:
        """``count`` further images of each private identity, from number ``first`` on, ordered as :meth:`private`, that
        are neither training nor test images.

        Raises:
            MibenchError: the data set has no others (the default).
        """
        del size, count, labels, first
        raise MibenchError(
            f"data set {self.name!r} has no pictures of its people besides training and test images",
            cure="choose a judge that learns from these",
        )

    def public_count(self) -> int:
        """How many public images there are. Data sets that know it without opening images override this."""
        return len(self.public(16))

    def people(self, side: Literal["private", "public"]) -> frozenset[str]:
        """Keys of everybody on one side. Data sets that know them without opening images override this."""
        if side == "public":
            return frozenset(self.public(16).identities)
        return frozenset(self.private("train", 16).identities + self.private("test", 16).identities)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What each class is called, in the order of labels; None: classes have numbers only."""
        return None

    @property
    def has_test_set(self) -> bool:
        """Whether the data says itself which private images are for testing; False: they were set apart by a rule."""
        return True

    def seen_by(self, kind: str) -> IdentitySplit:
        """The same people and parts as networks of a kind see them.

        Args:
            kind: ``target``, ``judge`` (the metrics see what it sees), ``prior``, ``regressor`` or ``backbone``.
        """
        del kind
        return self

    def check_disjoint(self) -> None:
        """Raise when an identity is on both sides: results mean nothing with shared identities."""
        if shared := shared_people(self):
            raise MibenchError(
                f"{len(shared)} identities of {self.name!r} are both private and public (first: {shared[0]})",
                cure="fix the split before training or attacking anything",
            )


def shared_people(split: IdentitySplit) -> list[str]:
    """Who is both private and public, sorted; a person whose name is spelt in two ways, with both.

    Names that differ only in Unicode form or in upper and lower case are one person here: to take two people for one is
    noticed, to take one for two spoils every number.
    """
    private = {normalised_name(person): person for person in sorted(split.people("private"))}
    shared = []
    for person in sorted(split.people("public")):
        known = private.get(normalised_name(person))
        if known is not None:
            shared.append(person if known == person else both_spellings(known, person))
    return shared


class GroundTruth(ABC):
    """Data sets that know the truth about an identity (``synthfaces``) also implement this."""

    identity_dim: ClassVar[int]

    @abstractmethod
    def identity_vectors(self, labels: Sequence[int] | None = None) -> Tensor:
        """Ground-truth vectors of private identities, float32 ``(n, identity_dim)``, each coordinate in [0, 1]."""

    @abstractmethod
    def public_identity_vectors(self, count: int | None = None) -> Tensor:
        """Ground-truth vectors of the identities on the first ``count`` *public images* ``(count, identity_dim)``."""

    @abstractmethod
    def foreign_identity_vectors(self, count: int) -> Tensor:
        """Vectors of identities that appear nowhere in the data ``(count, identity_dim)``: distractors for ranks."""


def first_of_each(images: Images, count: int) -> Images:
    """The first ``count`` images of each label, labels ascending."""
    chosen = [
        row
        for label in sorted(set(images.labels.tolist()))
        for row in (images.labels == label).nonzero().squeeze(1)[:count].tolist()
    ]
    rows = torch.tensor(chosen, dtype=torch.int64)
    return Images(images.pixels[rows], images.labels[rows], tuple(images.identities[row] for row in chosen))


def to_uint8(images: Tensor) -> Tensor:
    """Quantise images in [0, 1] to uint8, rounding to nearest; values outside are clamped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
