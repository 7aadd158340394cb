"""Data sets that only an adversary uses: everybody on them is public, and nobody is a class of a target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import ClassVar

from mibench.data.files import FileSplit
from mibench.data.rows import Role, Row
from mibench.data.split import Images, Part
from mibench.errors import MibenchError


class PublicOnly(FileSplit):
    """A data set without classes. Each picture counts as a person of its own: who is on it is not known."""

    protocol: ClassVar[str] = "audit"

    @abstractmethod
    def listed(self) -> Sequence[str]:
        """Names of the pictures below the root, in their order."""

    def rows(self, role: Role) -> Sequence[Row]:
        """The pictures, for the role ``public``; nothing else."""
        return self._public_rows if role == "public" else ()

    def private(self, part: Part, size: int, labels: Sequence[int] | None = None) -> Images:
        """Refused: nobody here is a class."""
        del part, size, labels
        raise MibenchError(
            f"{self.name} has public images only, it cannot be the data set of a target or a judge",
            cure=(
                f"train a prior on it (mibench train prior stylegan2 --dataset {self.name}), or take it as the "
                f"public images of another data set (--dataset facescrub --set dataset.public_from={self.name})"
            ),
        )

    @cached_property
    def _public_rows(self) -> list[Row]:
        return [Row(name, -1, f"{self.name}-{PurePosixPath(name).with_suffix('')}") for name in self.listed()]
