"""A model in a TorchScript file. It is a program: loading one runs nothing of Python, using it runs what it says."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import Tensor

from mibench.api import MibenchError

from .causes import likely
from .factory import worded
from .file_model import SealedNetwork


class TorchScriptNetwork(SealedNetwork):
    """A TorchScript program.

    It counts as a black box that gives scores: a script may be cut off from gradients anywhere (a quantised layer, an
    argmax, a detach) without saying so, and an attack would then descend along nothing.
    """

    def __init__(self, num_classes: int, **declared: Any) -> None:
        super().__init__(num_classes, **declared)
        self._programs: dict[torch.device, Any] = {}

    def answer(self, images: Tensor) -> Any:
        """What the program returns, without gradients."""
        program = self._programs.get(images.device)
        if program is None:
            program = self._programs[images.device] = load(self.file.cpu().numpy().tobytes(), images.device)
        try:
            # The optimising executor compiles after some calls, and the numbers of a resumed run would differ.
            with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return program(images)
        except RuntimeError as error:
            if "out of memory" in str(error) or "DefaultCPUAllocator" in str(error):
                raise torch.OutOfMemoryError(worded(error)) from error  # the engine goes on with fewer images
            raise MibenchError(
                f"the TorchScript model cannot run on images {tuple(images.shape)}: {worded(error)}{likely(error)}"
            ) from error


def load(content: bytes, device: torch.device) -> Any:
    """The program of a file's content, in eval mode.

    Raises:
        MibenchError: no TorchScript file, or one that needs operators that are not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise MibenchError(
            f"this is no TorchScript model that torch {torch.__version__} can open: {worded(error)}"
        ) from error
