"""A training whose power fails at one of its savings."""

from __future__ import annotations

import io
from typing import Any

import torch


class Stopped(KeyboardInterrupt):
    """The power went off."""


def without_layouts(state: Any) -> Any:
    """The state as a format without strides (safetensors, say) gives it back."""
    if isinstance(state, dict):
        return {key: without_layouts(value) for key, value in state.items()}
    return state.contiguous() if isinstance(state, torch.Tensor) else state


class Memory:
    """A checkpoint that goes through bytes and forgets memory layouts, and stops a training at its n-th saving."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.content: bytes | None = None
        self.stop_after, self.saves = stop_after, 0

    def load(self) -> dict[str, Any] | None:
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(without_layouts(state), buffer)
        self.content = buffer.getvalue()
        self.saves += 1
        if self.saves == self.stop_after:
            raise Stopped
