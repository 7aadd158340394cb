"""One listed picture, and the part of a data set that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["train", "test", "public"]


ROLES: tuple[Role, ...] = ("train", "test", "public")


@dataclass(frozen=True)
class Row:
    """One listed picture.

    Attributes:
        name: POSIX path below the root, as listed: what splits hash; digests cover it besides the content.
        label: class index; -1 for public pictures.
        identity: key of the person, unique over private and public, with the data set in front (``celeba-2880``).
    """

    name: str
    label: int
    identity: str
