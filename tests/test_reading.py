"""Foreign files: every container that was released reads; nothing runs, nothing explodes, every refusal is a line."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
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
from mibench.weights.importing.text import size

WEIGHTS = OrderedDict({"fc.weight": torch.arange(6.0).view(2, 3), "bn.num_batches_tracked": torch.tensor(7)})


def prefixed(prefix: str, weights: dict[str, Tensor] | None = None) -> OrderedDict[str, Tensor]:
    return OrderedDict({prefix + key: value for key, value in (weights or WEIGHTS).items()})


def write(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


class Call:
    """Pickles to a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize(
    ("content", "container", "stripped", "extras"),
    [
        ({"state_dict": prefixed("module.")}, "state_dict", ("module.",), {}),
        (
            {"state_dict": prefixed("module."), "config": {"lr": 0.01}, "model_name": "ir152_64"},  # TB's files
            "state_dict",
            ("module.",),
            {"config": {"lr": 0.01}, "model_name": "ir152_64"},
        ),
        (
            {"model_state_dict": prefixed("_orig_mod.model."), "epoch": 99, "val_acc": np.float64(0.5)},  # PPA's
            "model_state_dict",
            ("_orig_mod.", "model."),
            {"epoch": 99, "val_acc": 0.5},
        ),
        ({"model": WEIGHTS, "opt": {"state": {0: torch.ones(9)}}}, "model", (), {}),  # PLG-MI's
        (WEIGHTS, "bare", (), {}),
        (prefixed("module.module."), "bare", ("module.", "module."), {}),
        ({**prefixed("module."), "other": torch.zeros(1)}, "bare", (), {}),  # not every key: no prefix
        ({**WEIGHTS, "note": "half", "optimizer": {"a": 1}, "net": nn.Linear}, "bare", (), {"note": "half"}),
    ],
    ids=["kedmi", "toolbox", "ppa", "plgmi", "bare", "twice", "partly", "mixed"],
)
def test_released_containers(
    tmp_path: Path,
    legacy: bool,
    content: dict[str, Any],
    container: str,
    stripped: tuple[str, ...],
    extras: dict[str, Any],
) -> None:
    if "net" in content:
        content = {key: value for key, value in content.items() if key != "net"}
    found = read_weights(write(tmp_path / "a.tar", content, legacy))
    assert (found.container, found.stripped, found.extras) == (container, stripped, extras)
    assert found.file == "a.tar"
    if stripped or container != "bare":
        assert list(found.tensors) == list(WEIGHTS)
    for key, value in WEIGHTS.items():
        key = key if key in found.tensors else f"module.{key}"
        assert torch.equal(found.tensors[key], value)
        assert found.tensors[key].dtype == value.dtype


def test_state_dict_wins_over_model_and_an_empty_container_is_passed_over(tmp_path: Path) -> None:
    other = {"x": torch.zeros(1)}
    found = read_weights(write(tmp_path / "a", {"model": other, "state_dict": WEIGHTS, "model_state_dict": other}))
    assert found.container == "state_dict"
    found = read_weights(write(tmp_path / "a", {"model": other, "model_state_dict": WEIGHTS}))
    assert (found.container, list(found.tensors)) == ("model_state_dict", list(WEIGHTS))
    found = read_weights(write(tmp_path / "a", {"state_dict": {}, "model": WEIGHTS}))
    assert found.container == "model"


def test_safetensors_and_parameters_and_shared_storages_and_half(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "a.safetensors", metadata={"epoch": "3"})
    found = read_weights(tmp_path / "a.safetensors")
    assert (found.container, found.stripped, found.extras) == ("safetensors", ("module.",), {"epoch": "3"})
    shared = torch.arange(8.0)
    odd = {
        "a": nn.Parameter(torch.ones(3)), "b": shared[:4], "c": shared[4:], "d": shared.view(2, 4).T,
        "e": torch.ones(2).half(), "f": torch.ones(2).bfloat16(), "g": torch.zeros(0, 3),
    }  # fmt: skip
    for legacy in (True, False):
        found = read_weights(write(tmp_path / "odd", odd, legacy))
        assert all(torch.equal(found.tensors[key], value) for key, value in odd.items())


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("function", [os.system, eval, __import__], ids=["system", "eval", "import"])
def test_a_malicious_file_is_refused_by_the_name_of_what_it_asked_for_and_runs_nothing(
    tmp_path: Path, legacy: bool, function: Callable[..., Any]
) -> None:
    marker = tmp_path / "marker"
    argument = f"touch {marker}" if function is os.system else f"__import__('pathlib').Path({str(marker)!r}).touch()"
    path = write(tmp_path / "a.pth", {"state_dict": WEIGHTS, "x": Call(function, argument)}, legacy)
    with pytest.raises(MibenchError, match=rf"asks for \w+\.{function.__name__}, .* nothing of it was run") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_plain_pickle_is_refused_by_name_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"w": np.ones(3), "x": Call(os.system, f"touch {marker}")}, protocol=protocol))
    with pytest.raises(MibenchError, match=r"asks for (posix|nt)\.system"):
        read_weights(path)
    assert not marker.exists()


def test_names_hidden_from_a_scan_for_text_are_found(tmp_path: Path) -> None:
    """STACK_GLOBAL builds the name from memoised strings; the registry of copyreg stands for one by number."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x04true\x85R.")
    with pytest.raises(MibenchError, match=r"asks for posix\.system"):
        read_weights(path)
    path.write_bytes(b"\x80\x02\x82\x01)R.")
    with pytest.raises(MibenchError, match="extension registry"):
        read_weights(path)


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_a_whole_network_is_refused_with_its_class(tmp_path: Path, legacy: bool) -> None:
    with pytest.raises(MibenchError, match=r"a whole network as an object.*Sequential.*save its state_dict"):
        read_weights(write(tmp_path / "a.pth", {"model": nn.Sequential(nn.Linear(2, 2))}, legacy))


def rezipped(source: Path, target: Path, change: Callable[[str, bytes], bytes], **options: Any) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def claim(content: bytes, before: int, after: int) -> bytes:
    """Replace the number ``before`` (one byte in a pickle) by a large one."""
    old, new = b"K" + bytes([before]), b"\x8a\x08" + struct.pack("<q", after)
    assert old in content
    return content.replace(old, new)


def make_zip_bomb(folder: Path) -> Path:
    source = write(folder / "s.pth", {"w": torch.zeros(1_000_000)})
    return rezipped(source, folder / "a.pth", lambda name, data: data, compression=zipfile.ZIP_DEFLATED)


def make_short_storage(folder: Path) -> Path:
    """torch would read past the end of the record."""
    source = write(folder / "s.pth", {"w": torch.zeros(99), "v": torch.zeros(4000)})
    return rezipped(source, folder / "a.pth", lambda name, data: claim(data, 99, 199) if "pkl" in name else data)


def make_huge_tensor(folder: Path, legacy: bool = False) -> Path:
    """A view with stride 0: no storage, and terabytes as soon as somebody copies it."""
    return write(folder / "a.pth", {"w": torch.zeros(1).expand(2**40)}, legacy)


def make_outside_tensor(folder: Path) -> Path:
    source = write(folder / "s.pth", {"w": torch.zeros(4000)[:99]})
    return rezipped(source, folder / "a.pth", lambda name, data: claim(data, 99, 4001) if "pkl" in name else data)


def make_huge_legacy(folder: Path) -> Path:
    path = write(folder / "a.tar", {"w": torch.zeros(99)}, legacy=True)
    path.write_bytes(claim(path.read_bytes(), 99, 2**40))
    return path


def make_cut(folder: Path, legacy: bool, share: float) -> Path:
    path = write(folder / "a.pth", {"state_dict": WEIGHTS}, legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def make_tar(folder: Path, names: tuple[str, ...], mode: Any = "w") -> Path:
    path = folder / "IR152_91.16.tar"
    (folder / "x").write_bytes(b"x")
    with tarfile.open(path, mode) as archive:
        for name in names:
            archive.add(folder / "x", name)
    return path


def make_zip(folder: Path, names: tuple[str, ...]) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return folder / "a.zip"


def make_two_records(folder: Path) -> Path:
    path = write(folder / "a.pth", WEIGHTS)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", b"\x80\x02N.")
    return path


def make_two_cases(folder: Path) -> Path:
    """torch does not tell capitals apart and reads the second record; who checks the first sees nothing of it."""
    second = zipfile.ZipFile(write(folder / "s.pth", {"w": torch.zeros(1).expand(2**40)})).read("s/data.pkl")
    path = write(folder / "a.pth", {"w": torch.zeros(1)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/DATA.PKL", second)
    return path


def make_flipped(folder: Path) -> Path:
    path = write(folder / "a.pth", {"w": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(b"ctorch._utils") + 3] ^= 1
    path.write_bytes(content)
    return path


def make_script(folder: Path) -> Path:
    path = folder / "a.pt"
    torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(path)  # type: ignore[no-untyped-call]
    return path


def make_safetensors(folder: Path, header: bytes, claimed: int | None = None) -> Path:
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if claimed is None else claimed) + header)
    return path


def make_bytes(folder: Path, content: bytes, name: str = "a.pth") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def make_gzip(folder: Path) -> Path:
    gzip = zlib.compressobj(wbits=31)
    return make_bytes(folder, gzip.compress(bytes(10_000_000)) + gzip.flush(), "ffhq.pkl.gz")


OUTSIDE = json.dumps({"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda d: d / "none.pth", "No such file"),
    "a folder": (lambda d: d, "is a folder"),
    "empty": (lambda d: make_bytes(d, b""), "is empty; download it again"),
    "html": (lambda d: make_bytes(d, b"\n <html><body>Sign in</body>"), "a login page, not the file"),
    "quota page": (lambda d: make_bytes(d, QUOTA), "the drive's quota page"),
    "xml": (lambda d: make_bytes(d, b"<?xml version='1.0'?><Error/>"), "a web page, not the file"),
    "json error": (lambda d: make_bytes(d, b'{"error": "gone"}'), "a server's error message"),
    "git lfs": (lambda d: make_bytes(d, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "text": (lambda d: make_bytes(d, b"hello world"), "no file of weights"),
    "noise": (lambda d: make_bytes(d, bytes(range(255, 0, -1))), "no file of weights"),
    "picture": (lambda d: make_bytes(d, b"\x89PNG\r\n\x1a\n"), "a PNG picture"),
    "hdf5": (lambda d: make_bytes(d, b"\x89HDF\r\n\x1a\n"), "HDF5"),
    "onnx": (lambda d: make_bytes(d, b"\x08\x07\x12", "a.onnx"), "mibench audit"),
    "torchscript": (make_script, "TorchScript program, not weights.*mibench audit"),
    "real tar": (lambda d: make_tar(d, ("IR152/a.pth",)), "a real tar archive; unpack it first: it holds IR152/a.pth"),
    "tar.gz": (lambda d: make_tar(d, ("b.pth",), "w:gz"), "compressed with gzip; unpack it first: it holds b.pth"),
    "torch of 2016": (lambda d: make_tar(d, ("storages", "tensors", "pickle")), "from before 2017"),
    "gzip bomb": (make_gzip, "compressed with gzip; unpack it first: it holds ffhq.pkl"),
    "xz": (lambda d: make_bytes(d, b"\xfd7zXZ\x00"), "compressed with xz"),
    "zip of files": (lambda d: make_zip(d, ("a.pth", "b.pth")), "unpack it first: it holds a.pth, b.pth"),
    "empty zip": (lambda d: make_zip(d, ()), "it holds nothing"),
    "zip bomb": (make_zip_bomb, "claims 4.0 MB in a file of .* zip bomb"),
    "two records of one name": (make_two_records, "two records of one name"),
    "two records but for capitals": (make_two_cases, "two records of one name"),
    "storage shorter than declared": (make_short_storage, "declared with 796 bytes and holds 396"),
    "tensor past its storage": (make_outside_tensor, "a tensor reaches past its storage"),
    "tensor of terabytes": (make_huge_tensor, "a tensor claims a length of 1,099,511,627,776"),
    "the same, legacy": (lambda d: make_huge_tensor(d, legacy=True), "a tensor claims a length of 1,099,511,627,776"),
    "legacy storage of terabytes": (make_huge_legacy, r"claims tensors of 4\.4 TB and has .* exhaust memory"),
    "zip cut off": (lambda d: make_cut(d, False, 0.9), "cut off or damaged: a zip file without its directory"),
    "legacy cut off in its data": (lambda d: make_cut(d, True, 0.99), "cut off: its tensors take"),
    "legacy cut off in its pickle": (lambda d: make_cut(d, True, 0.5), "cut off or damaged"),
    "flipped bit": (make_flipped, "damaged|asks for"),
    "safetensors cut off": (lambda d: make_safetensors(d, OUTSIDE), "not a whole safetensors file"),
    "safetensors header too long": (lambda d: make_safetensors(d, b'{"', 2**60), "header claims 1.15e[+]06 TB"),
    "safetensors without tensors": (lambda d: make_safetensors(d, b"{}"), "holds no weights"),
    "a tensor alone": (lambda d: write(d / "a", torch.zeros(3)), "holds a Tensor, not named weights"),
    "a list": (lambda d: write(d / "a", [torch.zeros(3)]), "holds a list, not named weights"),
    "no tensors": (lambda d: write(d / "a", {"epoch": 3}), "holds no weights, only epoch"),
    "numbered tensors": (lambda d: write(d / "a", {3: torch.zeros(3)}), "which is no text"),
    "numpy pickle": (lambda d: make_bytes(d, pickle.dumps({"w": np.ones(3)})), "asks for numpy.*save its state_dict"),
    "plain pickle": (lambda d: make_bytes(d, pickle.dumps({"w": [1.0]})), "without weights of torch"),
    "StyleGAN of TensorFlow": (
        lambda d: make_bytes(d, b"\x80\x03cdnnlib.tflib.network\nNetwork\nq\x00."),
        "PyTorch release",
    ),
    "tensor of gigabytes": (
        lambda d: write(d / "a.pth", {"w": torch.zeros(1).expand(900, 900, 900)}),
        "a tensor claims 2,916,000,000 bytes",
    ),
    "tensor of no items and a long side": (
        lambda d: write(d / "a.pth", {"w": torch.zeros(2**40, 0)}),
        "a tensor claims a length of",
    ),
    "tuples that double": (
        lambda d: make_bytes(d, b"\x80\x02}N\x85" + b"q\x00h\x00\x86" * 45 + b"Ns."),
        "nests tuples without end",
    ),
    "unprintable names": (lambda d: write(d / "a", {"a\nb": torch.zeros(3)}), "cannot be printed"),
    "memo of gigabytes": (lambda d: make_bytes(d, b"\x80\x02Nr\xff\xff\xff\xff."), "without weights of torch"),
    "string of gigabytes": (lambda d: make_bytes(d, b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0fabc."), "damaged pickle"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", BAD)
def test_anything_but_a_file_of_weights_is_one_line(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MibenchError, match=message) as caught:
        read_weights(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert str(path) in text
    assert len(text) < 400 + len(str(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_names_from_a_file_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"\x1b[2Jevil\nline" * 1000: 3})
    with pytest.raises(MibenchError) as caught:
        read_weights(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_extras_that_refer_to_one_another_endlessly_are_cut(tmp_path: Path) -> None:
    tangle: list[Any] = ["end"]
    for _ in range(60):
        tangle = [tangle, tangle]
    circle: dict[str, Any] = {"nan": float("nan")}
    circle["self"] = circle
    found = read_weights(write(tmp_path / "a", {"state_dict": WEIGHTS, "tangle": tangle, "circle": circle}))
    assert found.extras["circle"]["nan"] == "nan"
    assert len(json.dumps(found.extras)) < 100_000


def test_another_file_than_the_hash_says_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = make_bytes(tmp_path, b"\x80\x02garbage")
    with pytest.raises(MibenchError, match=r"another file: its sha256 is [0-9a-f]{64}, expected 0{64}"):
        read_weights(path, sha256="0" * 64)
    with pytest.raises(MibenchError, match="takes 64 hexadecimal digits"):
        read_weights(path, sha256="123")
    good = write(tmp_path / "b", WEIGHTS)
    found = read_weights(good)
    assert read_weights(good, sha256=found.sha256.upper()).sha256 == found.sha256


def test_sizes_read_well() -> None:
    assert [size(n) for n in (0, 999, 3400, 4e6, 1.5e9, 4.4e12)] == [
        "0 bytes", "999 bytes", "3.4 kB", "4.0 MB", "1.5 GB", "4.4 TB",
    ]  # fmt: skip


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(MibenchError, match="is no ordinary file"):
        read_weights(tmp_path / "pipe.pth")
