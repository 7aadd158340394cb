"""What is brought as a model or as weights and is neither: the line says what it is and what to do."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mibench.audits.target import architecture_of
from mibench.errors import MibenchError
from mibench.targets.custom.causes import likely
from mibench.targets.custom.factory import find_factory
from mibench.weights.importing.reader import read_weights


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def exported(folder: Path) -> Path:
    program = torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),))
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "python": (lambda d: written(d / "net.py", b"class Net: pass\n"), r"Python code.*net:build"),
    "python with an import": (lambda d: written(d / "my.py", b"import torch\n"), r"Python code.*my:build"),
    "notebook": (lambda d: written(d / "n.ipynb", json.dumps({"cells": []}).encode()), "a notebook.*into a module"),
    "exported": (exported, r"torch.export \(.pt2\).*torch.onnx.export"),
    "tflite": (lambda d: written(d / "a.tflite", b"\x1c\0\0\0TFL3" + bytes(99)), "TensorFlow Lite.*ONNX"),
    "tflite, renamed": (lambda d: written(d / "a.pt", b"\x1c\0\0\0TFL3" + bytes(99)), "TensorFlow Lite.*ONNX"),
    "graph": (lambda d: written(d / "frozen.pb", b"\n\x08\n\x01x\x12\x03abc"), "a graph of TensorFlow.*tf2onnx"),
    "saved model": (lambda d: written(d / "saved" / "saved_model.pb", b"\x08\x01").parent, "a SavedModel.*tf2onnx"),
    "core ml": (lambda d: written(d / "a.mlpackage" / "Manifest.json", b"{}").parent, "Core ML.*torch.onnx.export"),
    "old core ml": (lambda d: written(d / "a.mlmodel", b"\x08\x01"), "Core ML"),
    "hugging face": (
        lambda d: written(d / "hub" / "model.safetensors", b"x").parent,
        "name the file model.safetensors",
    ),
    "folder": (lambda d: written(d / "some" / "file", b"x").parent, "is a folder; name the file"),
    "keras": (lambda d: zipped(d / "a.keras", "config.json", "metadata.json", "model.weights.h5"), "a model of Keras"),
    "keras, old": (lambda d: written(d / "a.h5", b"\x89HDF\r\n\x1a\n"), "Keras.*ONNX"),
    "arrays": (lambda d: zipped(d / "a.npz", "x.npy", "y.npy"), "NumPy arrays"),
    "tensorrt": (lambda d: written(d / "a.engine", b"ftrt" + bytes(99)), "TensorRT"),
    "openvino": (lambda d: written(d / "a.xml", b'<?xml version="1.0"?>\n<net name="x">'), "OpenVINO"),
    "matlab": (lambda d: written(d / "a.mat", b"MATLAB 5.0 MAT-file, Platform" + bytes(99)), "MATLAB"),
    "index": (lambda d: written(d / "model.safetensors.index.json", b'{"weight_map": {}}'), "name the .safetensors"),
    "another zip": (lambda d: zipped(d / "a.zip", "net/w.pth"), "a zip archive; unpack it first: it holds net/w.pth"),
    "text": (lambda d: written(d / "a.bin", b"hello world"), "no file of weights"),
    "pickle": (lambda d: written(d / "a.bin", pickle.dumps({"w": [1.0]})), "plain pickle without weights"),
}


@pytest.mark.parametrize("entry", ["--model", "weights"])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_called_what_it_is(name: str, entry: str, tmp_path: Path) -> None:
    make, message = KINDS[name]
    path = make(tmp_path)
    with pytest.raises(MibenchError, match=message) as caught:
        architecture_of(str(path)) if entry == "--model" else read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("./net.py:build", "write net:build"),
        ("net.py:build", "write net:build"),
        ("models/net.py:build", "start in models and write net:build, or set PYTHONPATH=models"),
        ("/a/b/net.py:Net", "start in /a/b and write net:Net"),
        (r"models\net.py:build", "start in models and write net:build"),
    ],
)
def test_a_path_to_code_is_turned_into_a_module(address: str, cure: str) -> None:
    with pytest.raises(MibenchError, match=r"a module is named without folder and \.py") as caught:
        find_factory(address)
    assert cure in str(caught.value)


def raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        call()
    return caught.value


IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda: nn.Linear(5, 2)(IMAGES.flatten(1)), "is --size right?"),
        (lambda: nn.Conv2d(3, 1, 9)(IMAGES), "is --size right?"),
        (lambda: IMAGES + torch.zeros(7), "is --size right?"),
        (lambda: IMAGES.view(2, 5, -1), "is --size right?"),
        (lambda: nn.Linear(192, 2).double()(IMAGES.flatten(1)), "its weights are float64"),
        (lambda: nn.Conv2d(3, 1, 3).double()(IMAGES), "its weights are float64"),
        (lambda: nn.Conv2d(3, 1, 3).half()(IMAGES), "its weights are in half precision"),
        (lambda: nn.Conv2d(1, 1, 3)(IMAGES), "another number of channels"),
        (lambda: int("no such thing"), ""),
    ],
    ids=["linear", "kernel", "addition", "view", "float64", "float64 convolution", "half", "channels", "anything"],
)
def test_a_guess_has_evidence(call: Callable[[], Any], cause: str) -> None:
    said = likely(raised(call))
    assert (cause in said) if cause else said == ""
    assert said.count("?") <= 1
