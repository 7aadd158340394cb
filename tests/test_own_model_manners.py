"""Own models that misbehave: they write where they should not, end the program, talk, return what is no scores."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from workplace import enter

from mibench.api import Access, ImageSpec, MibenchError, Victim, WeightsContents
from mibench.metrics.extractors import JudgeExtractor
from mibench.targets.custom.importing import import_module, import_torchscript
from mibench.targets.custom.module import ModuleNetwork
from mibench.targets.custom.torchscript import TorchScriptNetwork

CLASSES, SIZE = 3, 8
SOURCE = """
import atexit, os, sys, warnings
import numpy as np
import torch
from torch import nn

print("the module speaks")
torch.set_default_dtype(torch.float64)

class Net(nn.Module):
    def __init__(self, how="plain"):
        super().__init__()
        self.pool, self.layer, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(12, 4), nn.Linear(4, 3)
        self.how = how
        self.buffer = None
    def forward(self, x):
        return getattr(self, self.how)(x)
    def scores(self, x):
        return self.head(self.layer(self.pool(x).flatten(1)).relu())

    def plain(self, x): return self.scores(x)
    def in_place(self, x): return self.scores(x.sub_(0.5).mul_(2))
    def copying(self, x): return self.scores((x - 0.5) * 2)
    def hidden_in_place(self, x):
        hidden = self.layer(self.pool(x).flatten(1))
        return self.head(hidden.relu_())
    def same_tensor(self, x):
        y = self.scores(x)
        if self.buffer is None or len(self.buffer) != len(y):
            self.buffer = torch.empty(len(y), 3)
        self.buffer.copy_(y.detach())
        return self.buffer
    def squeezed(self, x): return self.scores(x).squeeze(0)
    def rows_lost(self, x): return self.scores(x)[:-1]
    def rows_joined(self, x): return self.scores(x).sum(0, keepdim=True)
    def features_joined(self, x):
        y = self.scores(x)
        return y.new_zeros(len(x) // 2, 8) if len(x) > 2 else y.new_zeros(len(x), 8), y
    def batch_statistics(self, x):
        return nn.functional.batch_norm(self.scores(x), None, None, training=True)
    def sparse(self, x): return self.scores(x).to_sparse()
    def meta(self, x): return self.scores(x).to("meta")
    def quantised(self, x):
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(self.scores(x), 0.1, 0, torch.qint8)
    def whole_numbers(self, x): return nn.functional.one_hot(self.scores(x).argmax(1), 3)
    def parameter(self, x): return nn.Parameter(self.scores(x))
    def endless(self, x):
        found = [self.scores(x)]
        found.append(found)
        return found
    def number(self, x): return 7
    def leaves(self, x): sys.exit(0)
    def strange(self, x): raise KeyboardInterruptLike()
    def speechless(self, x): raise Speechless()
    def late(self, x): return self.scores(x) if len(x) < 4 else sys.exit(0)

class KeyboardInterruptLike(BaseException): pass

class Speechless(Exception):
    def __str__(self): raise ValueError("none")

def build(how="plain"):
    print("the factory speaks")
    torch.manual_seed(0)
    torch.set_default_device("meta")
    return Net(how).to_empty(device="cpu").apply(lambda m: filled(m))

def filled(module):
    torch.set_default_device("cpu")
    for number, weights in enumerate(module.parameters(recurse=False)):
        with torch.no_grad():
            count = weights.numel()
            weights.copy_(((torch.arange(count) * 37 % 11 - 5) / 7).reshape(weights.shape))

def leaves(): sys.exit(0)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
def on_meta(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3, device="meta"))
def packed():
    import warnings
    warnings.simplefilter("ignore")
    return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}, dtype=torch.qint8)

class Extra(Net):
    def get_extra_state(self): return {"version": 2}
    def set_extra_state(self, state): pass

class Guarded(Net):
    def state_dict(self, *arguments, **options): sys.exit(0)

class Filled(Net):
    def _load_from_state_dict(self, *arguments): sys.exit(0)

class Moved(Net):
    def train(self, mode=True): sys.exit(0)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``ill_net.py`` and ``ill_script.py`` as working directory."""
    (tmp_path / "ill_net.py").write_text(SOURCE)
    (tmp_path / "ill_script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args()\n")
    (tmp_path / "ill_exit.py").write_text("raise SystemExit\n")
    enter(tmp_path, monkeypatch)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("ill_")]:
        del sys.modules[name]


def network(how: str = "plain", **more: Any) -> ModuleNetwork:
    found = ModuleNetwork(
        CLASSES, **{"factory": "ill_net:build", "arguments": {"how": how}, "outputs": ["logits"]} | more
    )
    return found.eval().requires_grad_(False)


def take_in(how: str = "plain", **more: Any) -> Any:
    given = {"classes": CLASSES, "size": SIZE, "factory": "ill_net:build", "arguments": {"how": how}}
    return import_module("module", [], given | more)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_a_model_that_writes_to_its_input_changes_nobody_elses_images(own: Path) -> None:
    """As target, as judge, at take-in and asked by itself: the same numbers as a model that copies."""
    spoiling, copying = network("in_place"), network("copying")
    given = images()
    for spec in (ImageSpec(size=SIZE), ImageSpec(size=SIZE, mean=(0.5,), std=(0.5,))):
        for access in ("scores", "logits"):
            found = [
                getattr(Victim(net, image=spec, num_classes=CLASSES, access=Access.GRADIENTS), access)(given)
                for net in (spoiling, copying)
            ]
            assert torch.equal(*found)
        judged = [JudgeExtractor(net, spec, name="it")(given).logits for net in (spoiling, copying)]
        assert torch.equal(*judged)
    assert torch.equal(spoiling(given).logits, copying(given).logits)
    assert torch.equal(given, images())
    assert take_in("in_place").notes == take_in("copying").notes, "the images of the probe stay whole as well"


def test_a_program_that_writes_to_its_input_changes_nobody_elses_images() -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2.0).mean(dim=[2, 3])

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writing()), buffer)
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    sealed = TorchScriptNetwork(CLASSES, bytes=len(content), outputs=["logits"])
    sealed.file.copy_(content)
    given = images()
    assert torch.equal(sealed(given).logits, sealed(given).logits)
    assert torch.equal(given, images())
    weights = WeightsContents(file="m.pt", sha256="0" * 64, container="torchscript", tensors={"file": content})
    assert import_torchscript("torchscript", [weights], {"classes": CLASSES, "size": SIZE}).arguments["outputs"]


@pytest.mark.parametrize("features", ["layer", "input:head"])
def test_features_are_what_the_layer_gave_not_what_was_made_of_it(own: Path, features: str) -> None:
    """Trap: ``nn.ReLU(inplace=True)`` behind the layer writes to the very tensor that the layer returned."""
    found = network("hidden_in_place", features=features)
    inner = found.network
    hidden = inner.layer(inner.pool(images()).flatten(1))
    assert bool((hidden < 0).any())
    expected = hidden if features == "layer" else hidden.relu()
    assert torch.equal(found(images()).features, expected)


def test_a_model_that_fills_the_same_tensor_in_every_call_is_understood(own: Path) -> None:
    found = network("same_tensor")
    first = found(images()).logits
    kept = first.clone()
    found(images() + 1)
    assert torch.equal(first, kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arguments": {"how": "squeezed"}}, "returns scores (3) for one image alone, expected (1, 3)"),
        ({"arguments": {"how": "batch_statistics"}}, "cannot run on images (1, 3, 8, 8): ValueError: Expected more"),
        ({"arguments": {"how": "rows_lost"}}, "returns (1, 3) for 2 images"),
        ({"arguments": {"how": "rows_joined"}}, "it must return one row for each image"),
        ({"arguments": {"how": "rows_joined"}, "outputs": ["logits"]}, "returns scores (1, 3) for 2 images"),
        ({"arguments": {"how": "sparse"}}, "returns a sparse tensor"),
        ({"arguments": {"how": "meta"}}, "returns a meta tensor"),
        ({"arguments": {"how": "quantised"}}, "returns a quantised tensor"),
        ({"arguments": {"how": "whole_numbers"}}, "returns (2, 3) of int64 for 2 images"),
        ({"arguments": {"how": "endless"}}, "RecursionError"),
        ({"arguments": {"how": "number"}}, "returns no tensor for 2 images"),
        ({"arguments": {"how": "leaves"}}, "ends the program on images (2, 3, 8, 8) (sys.exit(0))"),
        ({"arguments": {"how": "strange"}}, "raises KeyboardInterruptLike on images (2, 3, 8, 8)"),
        ({"arguments": {"how": "speechless"}}, "cannot run on images (2, 3, 8, 8): Speechless"),
        ({"factory": "ill_net:leaves", "arguments": {}}, "ends the program when it is built (sys.exit(0))"),
        ({"factory": "ill_script:build", "arguments": {}}, "ill_script reads the command line on import"),
        ({"factory": "ill_exit:build", "arguments": {}}, "ill_exit ends the program on import"),
        ({"factory": "ill_net:lazy", "arguments": {}}, "1.weight has no shape yet (a lazy layer)"),
        ({"factory": "ill_net:on_meta", "arguments": {}}, "1.weight is on the device 'meta'"),
        ({"factory": "ill_net:packed", "arguments": {}}, "export a quantised model as TorchScript"),
        ({"factory": "ill_net:Extra", "arguments": {}}, "its state holds _extra_state, a dict"),
        ({"factory": "ill_net:Guarded", "arguments": {}}, "ends the program when it is built"),
        ({"factory": "ill_net:Moved", "arguments": {}}, "ends the program when it is built"),
        ({"features": "pool", "arguments": {"how": "features_lost"}}, "AttributeError"),
    ],
)
def test_a_model_without_manners_is_one_line(own: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError) as refused:
        take_in(**settings)
    assert message in str(refused.value)
    assert str(refused.value).isprintable()


def test_weights_that_end_the_program_when_they_are_loaded_are_one_line(own: Path) -> None:
    found = network(factory="ill_net:Filled", arguments={})
    with pytest.raises(MibenchError, match="model ill_net:Filled ends the program when weights are loaded"):
        found.load_state_dict(found.state_dict())


@pytest.mark.parametrize(
    ("how", "count", "message"),
    [
        ("late", 4, "model ill_net:build ends the program on images (4, 3, 8, 8)"),
        ("squeezed", 1, "returns scores (3) for one image alone"),
        ("features_joined", 4, "the features of the model are (2, 8) for 4 images"),
    ],
)
def test_what_shows_only_in_a_run_is_one_line_too(own: Path, how: str, count: int, message: str) -> None:
    found = network(how, outputs=["features", "logits"] if how == "features_joined" else ["logits"])
    victim = Victim(found, image=ImageSpec(size=SIZE), num_classes=CLASSES, access=Access.GRADIENTS)
    assert victim.scores(images(3)).shape == (3, CLASSES) if how != "features_joined" else True
    with pytest.raises(MibenchError) as refused:
        victim.logits(images(count))
    assert message in str(refused.value)


def test_a_model_that_talks_and_sets_defaults_is_taken_in(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained = take_in("parameter")
    spoken = capfd.readouterr()
    assert spoken.out == ""
    assert "the module speaks" in spoken.err
    assert "the factory speaks" in spoken.err
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == torch.device("cpu")
    assert {tensor.dtype for tensor in trained.weights.values()} == {torch.float32}
