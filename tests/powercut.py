"""A training whose power fails at one of its savings."""

from __future__ import annotations

import copy
from typing import Any


class Stopped(Exception):
    """The power went off."""


class Memory:
    """A checkpoint in memory that survives through real serialisation limits: a deep copy, plain containers only."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.state: dict[str, Any] | None = None
        self.saves = 0
        self.stop_after = stop_after

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.state)

    def save(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)
        self.saves += 1
        if self.saves == self.stop_after:
            raise Stopped
