"""Somebody's own model in files: ONNX and TorchScript."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from own_models import CLASSES, SIZE
from torch import Tensor, nn


def onnx_file(
    *,
    size: int | str = SIZE,
    batch: int | str = "N",
    classes: int = CLASSES,
    channels: int = 3,
    channels_last: bool = False,
    softmax: bool = False,
    kind: int = TensorProto.FLOAT,
    shape: list[Any] | None = None,
) -> bytes:
    """Mean colour times a matrix: a graph that takes any size."""
    weights = np.random.default_rng(0).normal(size=(channels, classes)).astype("f")
    axes = [1, 2] if channels_last else [2, 3]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["colour"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["colour", "w"], ["y"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["y"], ["p"], axis=1))
    given = shape or ([batch, size, size, 3] if channels_last else [batch, channels, size, size])
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", kind, given)],
        [helper.make_tensor_value_info("p" if softmax else "y", kind, [batch, classes])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def flat_onnx() -> bytes:
    """A graph of vectors."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CLASSES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )


def script_file(network: nn.Module, size: int = SIZE) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network.eval(), torch.rand(2, 3, size, size)), buffer)
    return buffer.getvalue()


class Flat(nn.Module):
    """Runs at one size only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIZE * SIZE, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))
