"""Somebody's own model in code, and taking it in."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from workplace import enter

from mibench import registry
from mibench.api import Card, StateDictMismatch, TrainedWeights, WeightsContents, WeightsFile, load_strictly
from mibench.targets.custom.importing import import_module
from mibench.weights import cards

CLASSES, SIZE = 5, 8
CPU = torch.device("cpu")
SOURCE = """
import torch
from torch import nn
from own_layers import widened

class Net(nn.Module):
    def __init__(self, returns="logits", classes=5, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, widened(width), 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * widened(width), classes)
        self.returns = returns
    def forward(self, x):
        f = self.body(x)
        y = self.head(f)
        p = y.softmax(dim=1)
        return {"logits": y, "pair": (f, y), "reverse": (y, f[:, :, None, None]), "gmi": (f, p, p.argmax(dim=1)),
                "one": [y], "dict": {"hidden": f, "logits": y}, "softmax": p, "twins": (y, 2 * y), "both": (y, p),
                "nan": y * float("nan"), "text": "no", "crash": None}[self.returns]

def build(**arguments):
    return Net(**arguments)

def needs(width):
    return Net(width=width)

def broken():
    raise ValueError("no such thing\\nsecond line")

def text():
    return "a model"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``own_net.py`` and ``own_layers.py``, as working directory; forgotten again afterwards."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_net.py").write_text(SOURCE)
    (folder / "own_layers.py").write_text("def widened(width):\n    return 2 * width\n")
    (folder / "own_bad.py").write_text("import not_there_at_all\n")
    (folder / "own_worse.py").write_text("1 / 0\n")
    enter(folder, monkeypatch)
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def contents(tensors: dict[str, Tensor], **fields: Any) -> WeightsContents:
    return WeightsContents(file="w.safetensors", sha256="0" * 64, container="bare", tensors=tensors, **fields)


def as_file(content: bytes) -> WeightsContents:
    return contents({"file": torch.frombuffer(bytearray(content), dtype=torch.uint8)})


def taken_in(returns: str = "logits", **settings: Any) -> TrainedWeights:
    given = {"classes": CLASSES, "size": SIZE, "factory": "own_net:build", "arguments": {"returns": returns}}
    return import_module("module", [], given | settings)


def network_of(trained: TrainedWeights) -> Any:
    kind = registry.load("target", trained.architecture)
    network = kind(num_classes=trained.classes, **trained.arguments)
    load_strictly(network, trained.weights, message=StateDictMismatch.summary)
    return network.eval().requires_grad_(False)


def stored(folder: Path, trained: TrainedWeights, **fields: Any) -> cards.CardFile:
    """Write card and weights below ``folder`` and find the card again."""
    content = save(dict(trained.weights))
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    (folder / "weights" / "own.safetensors").write_bytes(content)
    card = Card(
        name=f"{trained.architecture}@toyfaces+mine",
        kind="target",
        architecture=trained.architecture,
        dataset="toyfaces",
        image=trained.image,
        weights=WeightsFile("own.safetensors", hashlib.sha256(content).hexdigest(), len(content)),
        arguments=trained.arguments,
        classes=trained.classes,
        **fields,
    )
    cards.write_card(card, folder / "cards")
    return cards.find("target", card.name, "toyfaces")
