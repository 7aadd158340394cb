"""A model in an ONNX file, run by onnxruntime on the CPU: it gives scores, and no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mibench.api import MibenchError

from .factory import worded
from .file_model import SealedNetwork

EXTERNAL = b"\n\x08location\x12"  # a tensor's entry "location": its numbers lie in another file
FAILURES = (
    "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoaded",
    "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
)  # fmt: skip
TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


@dataclass(frozen=True)
class Entry:
    """The images that an ONNX graph takes: name, type, layout; batch and size where the graph fixes them."""

    name: str
    dtype: torch.dtype
    channels_last: bool
    batch: int | None
    size: int | None


class OnnxNetwork(SealedNetwork):
    """An ONNX graph, run on the CPU."""

    def __init__(self, num_classes: int, **declared: Any) -> None:
        super().__init__(num_classes, **declared)
        self._session: Any = None
        self._entry: Entry | None = None

    @property
    def entry(self) -> Entry:
        """What the graph takes; opens it when that has not happened yet.

        Raises:
            MibenchError: onnxruntime is missing, or the file is no graph of images.
        """
        if self._entry is None:
            self._session = session(self.file.cpu().numpy().tobytes())
            self._entry = entry_of(self._session)
        return self._entry

    def answer(self, images: Tensor) -> list[Tensor]:
        """Every output of the graph on the images' device, batch by batch where the graph fixes its batch."""
        entry = self.entry
        given = images.detach().to("cpu", entry.dtype)
        if entry.channels_last:
            given = given.permute(0, 2, 3, 1)
        count = given.shape[0]
        step = entry.batch or max(count, 1)
        parts = [self._run(part, entry.batch) for part in given.split(step)]
        return [torch.cat(pieces).to(images.device) for pieces in zip(*parts, strict=True)]

    def _run(self, part: Tensor, batch: int | None) -> list[Tensor]:
        count = part.shape[0]
        if batch is not None and count < batch:
            part = torch.cat([part, part[:1].expand(batch - count, *part.shape[1:])])
        try:
            outputs = self._session.run(None, {self.entry.name: part.contiguous().numpy()})
        except failures() as error:
            raise MibenchError(f"the ONNX model cannot run on images {tuple(part.shape)}: {worded(error)}") from error
        return [torch.from_numpy(array)[:count] for array in outputs if getattr(array, "ndim", 0)]


def session(content: bytes) -> Any:
    """An onnxruntime session of a file's content.

    Raises:
        MibenchError: onnxruntime is missing, weights in another file, or no ONNX graph that this version can run.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MibenchError("ONNX models need onnxruntime", cure='pip install "mibench[onnx]"') from error
    if EXTERNAL in content:  # onnxruntime would look for the other file in the working directory, whatever lies there
        raise MibenchError(
            "the ONNX file keeps its weights in another file",
            cure="join them first: python -c \"import onnx; onnx.save_model(onnx.load('model.onnx'), 'joined.onnx')\"",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        # without a second try, of which it would print
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except failures() as error:
        raise MibenchError(
            f"no ONNX model that onnxruntime can open ({worded(error)})", cure="export it again"
        ) from error


def failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its exceptions share no class but ``Exception``."""
    from onnxruntime.capi import (
        onnxruntime_pybind11_state as state,
    )

    # its errors quote the file, which need not be UTF-8
    return (UnicodeDecodeError, *(getattr(state, name) for name in FAILURES if hasattr(state, name)))


def entry_of(opened: Any) -> Entry:
    """Read the graph's input.

    Raises:
        MibenchError: several inputs, or one that is no batch of square images of three channels.
    """
    inputs = opened.get_inputs()
    if len(inputs) != 1:
        raise MibenchError(
            f"the ONNX model takes {len(inputs)} inputs ({', '.join(i.name for i in inputs)}), not images alone"
        )
    shape = [side if isinstance(side, int) else None for side in inputs[0].shape]
    described = f"{inputs[0].name}: {inputs[0].type} {tuple(inputs[0].shape)}"
    if inputs[0].type not in TYPES:
        raise MibenchError(f"the ONNX model takes {described}; expected floating-point images (N, 3, H, W)")
    if len(shape) != 4:
        raise MibenchError(f"the ONNX model takes {described}, {len(shape)} axes; expected images (N, 3, H, W)")
    channels_last = shape[1] != 3 and shape[3] == 3
    batch, channels, *sides = (shape[0], shape[3], shape[1], shape[2]) if channels_last else shape
    known = {side for side in sides if side is not None}
    if channels not in (3, None) or len(known) > 1:
        raise MibenchError(f"the ONNX model takes {described}; expected square images of 3 channels, (N, 3, H, H)")
    return Entry(inputs[0].name, TYPES[inputs[0].type], channels_last, batch, known.pop() if known else None)
