"""StyleGAN2-ADA pickles written by hand, honest and hostile."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mibench.api import MibenchError, WeightsContents
from mibench.weights.importing.stylegan_pickle import read_stylegan_pickle


def read(content: bytes, folder: Path) -> WeightsContents:
    path = folder / "network.pkl"
    path.write_bytes(content)
    return read_stylegan_pickle(path)


def refused(content: bytes, folder: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(MibenchError) as refusal:
        read(content, folder)
    line = str(refusal.value)
    assert "\n" not in line
    assert "network.pkl" in line
    return line


# -- pickles by hand -------------------------------------------------------------------------------------------------


class Raw(bytes):
    """Instructions of a pickle, to stand where a value would."""


def code(value: Any) -> Raw:
    """Instructions that put a value on the stack; values may contain :class:`Raw`."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return Raw(b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u")
    if isinstance(value, tuple):
        return Raw(b"(" + b"".join(map(code, value)) + b"t")
    if isinstance(value, bytes):
        return Raw(b"B" + struct.pack("<I", len(value)) + value)
    return Raw(pickletools.optimize(pickle.dumps(value, 2))[2:-1])


def name(module: str, attribute: str) -> Raw:
    return Raw(f"c{module}\n{attribute}\n".encode())


def call(module: str, attribute: str, *arguments: Any) -> Raw:
    return Raw(name(module, attribute) + code(arguments) + b"R")


def state(content: Raw, state: Any) -> Raw:
    return Raw(content + code(state) + b"b")


def whole(value: Any) -> bytes:
    return b"\x80\x03" + code(value) + b"."


def network(**state: Any) -> Raw:
    meta = {"type": "class", "version": 6, "module_src": "x", "class_name": "Generator", "state": state}
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def legacy(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def typed(tensor: Tensor) -> torch.storage.TypedStorage:
    return torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)


BLOB = legacy(typed(torch.arange(6.0)))


def storage(blob: Any = BLOB) -> Raw:
    return call("torch.storage", "_load_from_bytes", blob)


def tensor(blob: Any = None, offset: Any = 0, shape: Any = (6,), stride: Any = (1,), *rest: Any) -> Raw:
    held = storage() if blob is None else blob
    return call("torch._utils", "_rebuild_tensor_v2", held, offset, shape, stride, *(rest or (False, {})))


def file_with(buffer: Any) -> bytes:
    return whole({"G_ema": network(_parameters={}, _buffers={"x": buffer}, _modules={})})
