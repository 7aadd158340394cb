"""Malformed models of one's own: rows for `mibench audit`."""

from __future__ import annotations

import os
from typing import Any

import torch
from malformed import HTML, Call, Row, World, cut, first_picture
from malformed_weights import state
from torch import nn

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16, classes)
    def forward(self, x):
        return self.head(self.body(x))

def build(): return Net()
def seven(): return Net(7)
def text(): return "a model"
def crash(): raise ValueError("no such thing")
"""


def audit(world: World, model: Any = "mynet:build", *more: Any, people: bool = True) -> list[Any]:
    (world.place / "mynet.py").write_text(NET)
    tree = world.tree("folder") if people else world.place
    return [
        "audit",
        "--model",
        model,
        "--data",
        tree / "private",
        "--public",
        tree / "public",
        "--size=32",
        "--device=cpu",
        *more,
    ]


def audit_weights(world: World, content: Any) -> list[Any]:
    path = world.place / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return audit(world, "mynet:build", "--weights", path)


def audit_broken_picture(world: World) -> list[Any]:
    given = audit(world)
    cut(first_picture(world.place / "folder" / "private"))
    return given


def good_net() -> dict[str, Any]:
    body = nn.Sequential(nn.Conv2d(3, 4, 3))
    return {f"body.{k}": v for k, v in body.state_dict().items()} | {
        "head.weight": torch.zeros(3, 16),
        "head.bias": torch.zeros(3),
    }


AUDIT = [
    Row(
        "ONNX garbage",
        lambda w: audit(w, w.file("m.onnx", b"\x08\x07garbage")),
        ("m.onnx", "no ONNX model", "export it again"),
    ),
    Row("empty ONNX", lambda w: audit(w, w.file("m.onnx", b"")), ("m.onnx is empty", "export the model again")),
    Row("HTML saved as ONNX", lambda w: audit(w, w.file("m.onnx", HTML)), ("m.onnx", "page")),
    Row(
        "TorchScript garbage",
        lambda w: audit(w, w.file("m.pt", b"PK\x03\x04" + bytes(99))),
        ("m.pt is cut off or damaged", "download it again"),
    ),
    Row("no such module", lambda w: audit(w, "mynett:build"), ("no module 'mynett'", "PYTHONPATH")),
    Row("no such function", lambda w: audit(w, "mynet:biuld"), ("mynet has no 'biuld' (it has: Net, build",)),
    Row(
        "function that returns no network",
        lambda w: audit(w, "mynet:text"),
        ("expected a torch.nn.Module from it, got str",),
    ),
    Row("function that fails", lambda w: audit(w, "mynet:crash"), ("it raises ValueError: no such thing",)),
    Row(
        "weights of another network",
        lambda w: audit_weights(w, state()),
        ("w.pth does not fit the model", "no name agrees: is it the network that these weights are of?"),
    ),
    Row(
        "evil weights",
        lambda w: audit_weights(w, {"w": Call(os.system, f"touch {w.place / 'owned'}")}),
        ("asks for posix.system", "nothing of it was run"),
    ),
    Row("HTML saved as weights", lambda w: audit_weights(w, HTML), ("quota page",)),
    Row(
        "weights that are no numbers",
        lambda w: audit_weights(w, {k: v * float("nan") for k, v in good_net().items()}),
        ("not finite", "are its weights whole?"),
    ),
    Row(
        "wrong class count",
        lambda w: audit(w, "mynet:seven"),
        ("returns (2, 7) for 2 images, the data has 3 identities", "give data with"),
    ),
    Row("no data at all", lambda w: audit(w, people=False), ("--data", "private: there is no such folder")),
    Row("truncated JPEG", audit_broken_picture, ("0001.jpg cannot be decoded", "download it again")),
    Row("standard deviation of zero", lambda w: audit(w, "mynet:build", "--std=0"), ("--std positive",)),
    Row("mean that is no number", lambda w: audit(w, "mynet:build", "--mean=grey"), ("--mean grey: expected numbers",)),
    Row(
        "file of classes that is none",
        lambda w: audit(w, "mynet:build", "--classes", "none.txt"),
        ("--classes none.txt: there is no such file", "one directory name a line"),
    ),
]
