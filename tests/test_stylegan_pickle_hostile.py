"""Hostile StyleGAN2-ADA pickles: nothing in them ever runs, or takes memory without end."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from pickles import (
    BLOB,
    Raw,
    call,
    code,
    file_with,
    legacy,
    name,
    network,
    read,
    refused,
    state,
    storage,
    tensor,
    typed,
    whole,
)

from mibench.weights.importing import metered_unpickler, stylegan_pickle
from mibench.weights.importing.stylegan_records import ALLOWED


def attacks(marker: str) -> dict[str, tuple[Raw, str]]:
    """Calls that would make a file of that name, and the name that the refusal must give."""
    write = f"open({marker!r}, 'w').close()"
    return {
        "os.system": (call("os", "system", f"touch {marker}"), "os.system"),
        "posix.system": (call("posix", "system", f"touch {marker}"), "posix.system"),
        "eval": (call("builtins", "eval", write), "builtins.eval"),
        "python 2 eval": (call("__builtin__", "eval", write), "__builtin__.eval"),
        "exec": (call("builtins", "exec", write), "builtins.exec"),
        "getattr chain": (
            Raw(
                call("builtins", "getattr", call("builtins", "__import__", "os"), "system")
                + code((f"touch {marker}",))
                + b"R"
            ),
            "builtins.__import__",
        ),
        "dotted name": (
            Raw(code("torch.storage") + code("os.system") + b"\x93" + code((f"touch {marker}",)) + b"R"),
            "os",
        ),
        "subprocess": (call("subprocess", "Popen", ["touch", marker]), "subprocess.Popen"),
        "new object": (Raw(name("subprocess", "Popen") + code((["touch", marker],)) + b"\x81"), "subprocess.Popen"),
        "instance": (Raw(b"(" + code(f"touch {marker}") + b"ios\nsystem\n"), "os.system"),
        "object": (Raw(b"(" + name("os", "system") + code(f"touch {marker}") + b"o"), "os.system"),
        "torch.load": (call("torch", "load", marker), "torch.load"),
        "torch's own reader": (call("torch.serialization", "load", marker), "torch.serialization.load"),
        "numpy's reader": (call("numpy", "load", marker), "numpy.load"),
        "functools": (call("functools", "partial", name("os", "system"), marker), "os.system"),
        "the reference's own exec": (call("torch_utils.persistence", "_src_to_module", write), "_src_to_module"),
        "a network of torch": (call("torch.nn.modules.linear", "Linear", 2, 2), "torch.nn.modules.linear.Linear"),
        "another codec": (call("_codecs", "decode", b"x", "zlib"), "_codecs.decode"),
    }


@pytest.mark.parametrize("which", list(attacks("")))
@pytest.mark.parametrize("place", ["top", "beside", "unused", "buffer", "source"])
def test_a_file_that_asks_for_code_is_refused_with_its_name(which: str, place: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    evil, asked = attacks(str(marker))[which]
    honest = network(_buffers={"x": tensor()})
    meta = {"type": "class", "module_src": evil, "class_name": "Generator", "state": {}}
    content = {
        "top": whole(evil),
        "beside": whole({"G_ema": honest, "augment_pipe": evil}),
        "unused": b"\x80\x03" + evil + b"0" + code({"G_ema": honest}) + b".",
        "buffer": file_with(evil),
        "source": whole({"G_ema": call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)}),
    }[place]
    assert asked in refused(content, tmp_path)
    assert not marker.exists()


def test_the_marker_would_be_there_had_anything_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(whole(attacks(str(marker))["os.system"][0]))
    assert marker.exists()


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("new", [False, True])
def test_code_inside_a_storage_is_refused(new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    file = io.BytesIO()
    torch.save(Evil(marker), file, _use_new_zipfile_serialization=new)
    torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert marker.exists()  # as the real torch.storage._load_from_bytes would do
    marker.unlink()
    line = refused(file_with(tensor(storage(file.getvalue()))), tmp_path)
    assert ("another format" if new else "posix.system") in line
    assert not marker.exists()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x80\x02.",
        b"PK\x03\x04" + bytes(100),
        BLOB[:-1],
        BLOB + b"x",
        BLOB[:-32] + struct.pack("<q", 5) + BLOB[-24:],
        legacy(torch.arange(6.0)),
        legacy({"a": 1}),
        legacy([typed(torch.arange(6.0)), typed(torch.arange(3.0))]),
        legacy(typed(torch.zeros(2, dtype=torch.complex64))),
        pickle.dumps([1]),
    ],
    ids=[
        "nothing",
        "a pickle",
        "a zip",
        "cut",
        "longer",
        "another length",
        "a tensor",
        "a dict",
        "two",
        "complex",
        "list",
    ],
)
def test_a_storage_must_be_one_storage_as_torch_saved_it(blob: bytes, tmp_path: Path) -> None:
    assert "damaged" in refused(file_with(tensor(storage(blob))), tmp_path)


def test_a_storage_that_claims_gigabytes_is_refused_before_they_are_taken(tmp_path: Path) -> None:
    count = BLOB.index(b"K\x06")  # the number of items in its pickle
    claimed = BLOB[:count] + b"J" + struct.pack("<i", 2**31 - 1) + BLOB[count + 2 :]
    assert "cut off" in refused(file_with(tensor(storage(claimed))), tmp_path)


# -- each allowed name, used against us ------------------------------------------------------------------------------

HOSTILE: dict[str, Any] = {
    "beyond the end": tensor(None, 0, (7,), (1,)),
    "offset beyond the end": tensor(None, 6, (1,), (1,)),
    "negative offset": tensor(None, -1, (1,), (1,)),
    "negative stride": tensor(None, 5, (6,), (-1,)),
    "stride beyond the end": tensor(None, 0, (2,), (6,)),
    "gigabytes by a stride of 0": tensor(None, 0, (2**40,), (0,)),
    "copies by a stride of 0": tensor(None, 0, (7,), (0,)),
    "overflowing sizes": tensor(None, 0, (2**62, 2**62), (0, 0)),
    "negative size": tensor(None, 0, (-1,), (1,)),
    "strides of another length": tensor(None, 0, (2, 3), (1,)),
    "sizes that are no numbers": tensor(None, 0, ("6",), (1,)),
    "true as a size": tensor(None, 0, (True,), (1,)),
    "sizes in a list": tensor(None, 0, [6], [1]),
    "a thousand dimensions": tensor(None, 0, (1,) * 1000, (1,) * 1000),
    "no storage": tensor(Raw(b"N")),
    "bytes as a storage": tensor(code(BLOB)),
    "no arguments": call("torch._utils", "_rebuild_tensor_v2"),
    "parameter of no tensor": call("torch._utils", "_rebuild_parameter", "x", True, {}),
    "parameter of a storage": call("torch._utils", "_rebuild_parameter", storage(), True, {}),
    "storage of text": call("torch.storage", "_load_from_bytes", "text"),
    "storage of a name": call("torch.storage", "_load_from_bytes", name("torch", "Size")),
    "network of text": call("torch_utils.persistence", "_reconstruct_persistent_obj", "x"),
    "network without a state": call("torch_utils.persistence", "_reconstruct_persistent_obj", {"type": "class"}),
    "function instead of a class": call(
        "torch_utils.persistence", "_reconstruct_persistent_obj", {"type": "func", "state": {}}
    ),
    "object dtype": call("numpy", "dtype", "O8", False, True),
    "record dtype": call("numpy", "dtype", [("a", "f8")]),
    "void dtype": call("numpy", "dtype", "V1000000000"),
    "dtype of a name": call("numpy", "dtype", name("torch", "Size")),
    "dtype in an unknown state": state(
        call("numpy", "dtype", "f8", False, True), (3, "O", None, None, None, -1, -1, 63)
    ),
    "number of another length": call("numpy.core.multiarray", "scalar", call("numpy", "dtype", "f8"), b"1234"),
    "many numbers": call("numpy.core.multiarray", "scalar", call("numpy", "dtype", "f8"), bytes(800)),
    "object as a number": call("numpy._core.multiarray", "scalar", call("numpy", "dtype", "f8"), [1]),
    "number of no type": call("numpy._core.multiarray", "scalar", "O", b"12345678"),
    "codec with a module of its own": call("_codecs", "encode", "x", "zlib_codec"),
    "codec of numbers": call("_codecs", "encode", 5, "latin1"),
    "text outside of the codec": call("_codecs", "encode", "\u20ac", "latin1"),
    "set of sets": call("builtins", "set", {"a": 1}),
    "size of text": call("torch", "Size", ["a"]),
    "size of one number": call("torch", "Size", 5),
    "dict of a number": call("collections", "OrderedDict", 5),
    "state for a function": state(name("torch", "Size"), {"__code__": 1}),
    "attributes for a function": state(name("torch._utils", "_rebuild_tensor_v2"), (None, {"__defaults__": (1,)})),
    "attributes for a class": state(name("dnnlib.util", "EasyDict"), (None, {"get": 1})),
    "a name outside of the pickle": Raw(b"Pouter\n"),
    "an object outside of the pickle": Raw(code(("storage", "x", "0", "cpu", 1)) + b"Q"),
    "the registry of short names": Raw(b"\x82\x01"),
    "out-of-band buffer": Raw(b"\x97"),
    "a terabyte of zeros": Raw(b"\x96" + struct.pack("<Q", 2**40)),
    "a terabyte of bytes": Raw(b"\x8e" + struct.pack("<Q", 2**40)),
    "bottomless tuple": Raw(b")" + b"\x85" * 200_000),
    "bottomless key": Raw(b"})" + b"\x85" * 200_000 + b"Ns"),
    "empty stack": Raw(b"0000000000"),
    "missing mark": Raw(b"uuu"),
    "unknown instruction": Raw(b"\xff"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_allowed_names_take_honest_arguments_only(case: str, tmp_path: Path) -> None:
    before = dict(ALLOWED), {key: vars(value).copy() for key, value in ALLOWED.items() if hasattr(value, "__dict__")}
    assert "damaged" in refused(file_with(HOSTILE[case]), tmp_path)
    assert before[0] == ALLOWED
    assert all(vars(ALLOWED[key]) == attributes for key, attributes in before[1].items())


def test_every_allowed_name_has_a_hostile_case() -> None:
    used = b"".join(HOSTILE.values())
    for module, attribute in set(ALLOWED) - {("torch", "device"), ("__builtin__", "set")}:  # one ignores all, an alias
        assert name(module, attribute) in used, (module, attribute)


# -- endless structures ----------------------------------------------------------------------------------------------


def test_modules_that_contain_themselves(tmp_path: Path) -> None:
    inside = Raw(b"}q\x63")  # slot 0x63: the state, filled once the network that has it is in slot 0x62
    made = call("torch_utils.persistence", "_reconstruct_persistent_obj", {"type": "class", "state": Raw(b"h\x63")})
    fill = Raw(b"h\x63" + code("_modules") + b"}" + code("a") + b"h\x62" + b"ss0")
    content = b"\x80\x03" + inside + b"0" + made + b"q\x620" + fill + code({"G_ema": Raw(b"h\x62")}) + b"."
    assert "no end" in refused(content, tmp_path)


def test_modules_that_multiply(tmp_path: Path) -> None:
    content = Raw(network(_buffers={"x": tensor()}) + b"q\x640")
    for _ in range(12):  # each has ten times the one before
        content = Raw(content + network(_modules={str(i): Raw(b"h\x64") for i in range(10)}) + b"q\x640")
    line = refused(b"\x80\x03" + content + code({"G_ema": Raw(b"h\x64")}) + b".", tmp_path)
    assert "no end" in line or "more than the file holds" in line


def test_settings_that_multiply(tmp_path: Path) -> None:
    content = Raw(code(["x"]) + b"q\x640")
    for _ in range(40):
        content = Raw(content + b"(" + b"h\x64" * 10 + b"lq\x640")
    made = network(_buffers={"x": tensor()}, _init_kwargs={"a": Raw(b"h\x64"), "b": 1})
    assert list(read(b"\x80\x03" + content + code({"G_ema": made}) + b".", tmp_path).tensors) == ["G.x"]


def test_a_far_memory_slot_takes_no_memory(tmp_path: Path) -> None:
    far = Raw(b"r" + struct.pack("<I", 2**32 - 1))  # the interpreter in C takes 32 GB for it
    assert "G.x" in read(file_with(Raw(tensor() + far)), tmp_path).tensors


def test_one_storage_cannot_become_many_tensors(tmp_path: Path) -> None:
    shared = Raw(code(legacy(typed(torch.zeros(2000)))) + b"q\x640")
    buffers = {str(i): tensor(storage(Raw(b"h\x64")), 0, (2000,), (1,)) for i in range(50)}
    content = b"\x80\x03" + shared + code({"G_ema": network(_buffers=buffers)}) + b"."
    assert "more than the file holds" in refused(content, tmp_path)


def test_a_pickle_of_many_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metered_unpickler.Steps, "left", 10_000)
    assert "instructions" in refused(b"\x80\x03" + b"}" * 20_000 + b".", tmp_path)


def test_a_file_of_many_gigabytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stylegan_pickle, "LARGEST", 1000)
    assert "name the right file" in refused(file_with(tensor()) + bytes(1000), tmp_path)
