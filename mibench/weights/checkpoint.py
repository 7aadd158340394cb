"""The state of a training on disk, and how long the training has taken so far."""

from __future__ import annotations

import io
import pickle
import time
from pathlib import Path

import torch

from mibench.api.weights import CheckpointState
from mibench.errors import MibenchError
from mibench.system.files import atomic_write


class FileCheckpoint:
    """A training's state in one file: written atomically, read without running any code from it.

    Attributes:
        seconds_before: that earlier sessions of the training took, up to the state that was loaded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds_before = 0.0
        self._began = time.monotonic()

    def load(self) -> CheckpointState | None:
        """The last saved state, or None."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
            raise MibenchError(
                f"cannot read the checkpoint {self.path}", cure="delete it to start the training again"
            ) from error
        self.seconds_before = float(state.pop("seconds", 0.0))
        self._began = time.monotonic()
        return dict(state)

    def save(self, state: CheckpointState) -> None:
        """Replace the saved state."""
        buffer = io.BytesIO()
        torch.save({**state, "seconds": self.seconds_before + time.monotonic() - self._began}, buffer)
        atomic_write(self.path, buffer.getvalue())

    def discard(self) -> None:
        """Forget the state: the training is over."""
        self.path.unlink(missing_ok=True)
