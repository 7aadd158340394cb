"""Public images from another data set than the private ones, as when a prior of FFHQ is used against CelebA."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from mibench.data.files import FileSplit
from mibench.data.images import Framing, Picture
from mibench.data.rows import ROLES, Role, Row


class AllPublic(FileSplit):
    """A data set of which everything is public, framed as the private images' protocol wants it.

    Args:
        inner: the data set.
        framing: in place of its own; None: its own.
    """

    def __init__(self, inner: FileSplit, framing: Framing | None = None) -> None:
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]  # of the instance: whatever it was made of
        self.root = inner.root
        self._framing = framing

    @property
    def framing(self) -> Framing:
        """The one it was given, else the data set's."""
        return self._framing or self.inner.framing

    def rows(self, role: Role) -> Sequence[Row]:
        """Everything under role ``public``, by name."""
        return self._rows if role == "public" else ()

    @cached_property
    def _rows(self) -> list[Row]:
        rows = {row.name: Row(row.name, -1, row.identity) for role in ROLES for row in self.inner.rows(role)}
        return [rows[name] for name in sorted(rows)]

    def picture(self, row: Row) -> Picture:
        """The data set knows."""
        return self.inner.picture(row)

    def details(self) -> dict[str, object]:
        """Those of the data set."""
        return self.inner.details()
