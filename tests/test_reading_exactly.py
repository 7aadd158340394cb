"""The numbers that are read are those in the file, and nothing in it reaches past the checks."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import io
import pathlib
import struct
import types
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mibench.errors import MibenchError
from mibench.weights.importing.reader import read_weights

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip
UNTYPED = (torch.uint16, torch.uint32, torch.uint64)  # torch itself does not read them out of an old file


def saved(path: Path, content: Any, legacy: bool = False, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def assorted() -> dict[str, Tensor]:
    """Every type, every layout."""
    torch.manual_seed(0)
    found = {str(dtype): (torch.rand(3, 4) * 9).to(dtype) for dtype in DTYPES}
    shared = torch.arange(24.0)
    found |= {
        "window": shared[3:9],
        "transposed": shared.view(4, 6).T,
        "steps": shared[::5],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.rand(3)),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, legacy: bool, protocol: int) -> None:
    wanted = {key: t for key, t in assorted().items() if not (legacy and t.dtype in UNTYPED)}
    path = saved(tmp_path / "a.pth", wanted, legacy, pickle_protocol=protocol)
    if protocol == 2:
        wanted = torch.load(path, weights_only=True)
    found = read_weights(path).tensors
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert type(found[key]) is Tensor
        assert found[key].dtype == tensor.dtype
        assert (found[key].shape, found[key].stride()) == (tensor.shape, tensor.stride())
        assert torch.equal(found[key], tensor.detach()), key


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.arange(5.0), "n": torch.arange(4, dtype=torch.int16)})
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            if name.endswith("byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, "<i2" if len(content) == 8 else "<f4").byteswap().tobytes()
            new.writestr(name, content)
    found = read_weights(path).tensors
    assert found["w"].tolist() == [0, 1, 2, 3, 4]
    assert found["n"].tolist() == [0, 1, 2, 3]


# Attributes that a file sets


class Rebuilt:
    """Pickles to a call of one of torch's functions."""

    def __init__(self, function: Callable[..., Any], *parts: Any) -> None:
        self.call = function, parts

    def __reduce__(self) -> Any:
        return self.call


class Hidden(collections.OrderedDict[str, Any]):
    """A mapping whose attribute hides a method."""

    def __reduce__(self) -> Any:
        return collections.OrderedDict, (), {"items": 5, "keys": 6}, None, iter(dict.items(self))


ATTRIBUTES = {"is_complex": 5, "isfinite": 6, "shape": 7, "float": 8, "numpy": 9}


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_what_a_file_sets_on_its_objects_is_left_out(tmp_path: Path, legacy: bool) -> None:
    parameter = Rebuilt(
        torch._utils._rebuild_parameter_with_state, torch.ones(2), False, collections.OrderedDict(), ATTRIBUTES
    )
    plain = torch.ones(2)
    plain.note = "kept by torch.save beside the numbers"  # type: ignore[attr-defined]
    content = {"state_dict": Hidden({"w": torch.zeros(3), "p": parameter, "t": plain}), "more": Hidden(a=1)}
    found = read_weights(saved(tmp_path / "a.pth", content, legacy))
    assert type(found.tensors) is dict
    assert found.tensors.keys() == {"w", "p", "t"}
    assert all(type(tensor) is Tensor and not vars(tensor) for tensor in found.tensors.values())
    assert found.extras == {"more": {"a": 1}}


# Archives that two readers read in two ways


def records_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def stored(records: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, how if name.endswith("data.pkl") else zipfile.ZIP_STORED)
    return file.getvalue()


def joined(first: bytes, second: bytes) -> bytes:
    """Two archives in one file: a reader that goes by stated places finds the first one, Python the second."""
    end = second.rindex(b"PK\5\6")
    count, size, offset = struct.unpack("<HII", second[end + 10 : end + 20])
    start = struct.unpack("<HII", first[(last := first.rindex(b"PK\5\6")) + 10 : last + 20])[2]
    table, at = bytearray(second[offset : offset + size]), 0
    while at < size:
        name, extra, comment = struct.unpack("<HHH", table[at + 28 : at + 34])
        (place,) = struct.unpack("<I", table[at + 42 : at + 46])
        table[at + 42 : at + 46] = struct.pack("<I", place + start - offset)
        at += 46 + name + extra + comment
    tail = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, size, start, 0)
    return first[: start + size] + second[:offset] + bytes(table) + tail


@pytest.mark.parametrize("case", ["two archives", "something before", "deflated", "lzma", "two pickles", "flipped"])
def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path, case: str) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": WEIGHTS, "epoch": 3})
    records = records_of(path)
    pickled = next(name for name in records if name.endswith("data.pkl"))
    other = {**records, pickled: records[pickled].replace(b"epoch", b"other")}
    whole = stored(records)
    pad = {**records, f"{pickled.partition('/')[0]}/pad": bytes(5000)}
    flipped = bytearray(whole)
    flipped[whole.index(WEIGHTS["fc.weight"].numpy().tobytes()) + 6] ^= 1
    content, message = {
        "two archives": (joined(stored(other), whole), "two archives"),
        "something before": (b"PK\3\4" + bytes(60) + whole, "two archives, or does not begin"),
        "deflated": (stored(pad, zipfile.ZIP_DEFLATED), "compresses nothing"),
        "lzma": (stored(pad, zipfile.ZIP_LZMA), "compresses nothing"),
        "two pickles": (stored({**records, "b/data.pkl": records[pickled]}), "two pickles"),
        "flipped": (bytes(flipped), "damaged: Bad CRC-32"),
    }[case]
    path.write_bytes(content)
    with pytest.raises(MibenchError, match=message):
        read_weights(path)


# Classes of the standard library


HARMLESS = {
    "namespace": argparse.Namespace(lr=0.1, path=pathlib.Path("x")),
    "path": pathlib.PurePosixPath("x/y"),
    "windows": pathlib.PureWindowsPath("x"),
    "date": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),  # noqa: UP017 (as scripts write it)
    "delta": datetime.timedelta(seconds=3),
    "queue": collections.deque([1, 2], maxlen=3),
    "decimal": decimal.Decimal("0.1"),
    "uuid": uuid.uuid5(uuid.NAMESPACE_DNS, "x"),
    "space": types.SimpleNamespace(a=1),
    "frozen": frozenset({1, 2}),
    "complex": 1 + 2j,
    "array": np.arange(6).reshape(2, 3),
    "words": np.array(["a", "b"]),
    "range": range(3),
    "class": dict,
}  # fmt: skip


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("name", HARMLESS)
def test_plain_classes_beside_weights_are_left_out(tmp_path: Path, name: str, legacy: bool) -> None:
    found = read_weights(saved(tmp_path / "a.pth", {"state_dict": WEIGHTS, "x": HARMLESS[name], "epoch": 2}, legacy))
    assert found.tensors.keys() == WEIGHTS.keys()
    assert found.extras["epoch"] == 2
    assert "object at" not in str(found.extras)


def test_mappings_of_the_standard_library_are_mappings(tmp_path: Path) -> None:
    history = collections.defaultdict(list, loss=[1.0, 0.5])
    counter = collections.Counter({30: 1, 60: 1})
    content = {"state_dict": collections.defaultdict(None, WEIGHTS), "history": history, "milestones": counter}
    found = read_weights(saved(tmp_path / "a.pth", content))
    assert found.tensors.keys() == WEIGHTS.keys()
    assert found.extras == {"history": {"loss": [1.0, 0.5]}, "milestones": {"30": 1, "60": 1}}


def test_classes_of_ones_own_get_the_cure_that_helps(tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=r"asks for .*Rebuilt|save its state_dict") as caught:
        read_weights(saved(tmp_path / "a.pth", {"state_dict": WEIGHTS, "x": Rebuilt}))
    assert "load it nowhere" not in str(caught.value)


def test_tensors_of_special_kinds_are_named(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(MibenchError, match=r"sparse, quantised.*save plain tensors"):
        read_weights(saved(tmp_path / "a.pth", {"w": sparse}))


def test_safetensors_say_text_only(tmp_path: Path) -> None:
    save_file({"n_averaged": torch.tensor(4), "module.w": torch.zeros(2)}, tmp_path / "a.safetensors")
    found = read_weights(tmp_path / "a.safetensors")
    assert (found.tensors.keys(), found.extras) == ({"w"}, {"n_averaged": 4})
