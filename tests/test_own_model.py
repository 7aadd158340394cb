"""Somebody's own model as a target: code with weights, ONNX, TorchScript; what it returns, what it may give."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from accelerator import an_accelerator  # noqa: F401
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn
from workplace import enter

from mibench import registry
from mibench.api import (
    Access,
    AccessError,
    Card,
    ImageSpec,
    MibenchError,
    StateDictMismatch,
    TrainedWeights,
    WeightsContents,
    WeightsFile,
    load_strictly,
)
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.targets.custom.factory import code_of
from mibench.targets.custom.importing import fill, import_module, import_onnx, import_torchscript
from mibench.targets.custom.outputs import recognise
from mibench.targets.custom.preprocessing import ImageConvention
from mibench.weights import cards, load

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


# What a network returns


@pytest.mark.parametrize(
    ("returns", "roles"),
    [
        ("logits", ["logits"]),
        ("pair", ["features", "logits"]),
        ("reverse", ["logits", "features"]),  # trap: DMMIA's released code expects the reverse order, 4-D features
        ("gmi", ["features", "probabilities", "other"]),  # trap: GMI's IR152 returns softmax and argmax
        ("one", ["logits"]),  # trap: GMI's FaceNet returns a one-element list
        ("dict", ["features", "logits"]),
        ("softmax", ["probabilities"]),
        ("both", ["logits", "probabilities"]),
    ],
)
def test_what_a_model_returns_is_told_by_its_shapes(own: Path, returns: str, roles: list[str]) -> None:
    torch.manual_seed(0)
    trained = taken_in(returns)
    expected = roles if returns != "both" else ["logits", "other"]
    assert trained.arguments["outputs"] == expected
    network = network_of(trained)
    images = torch.rand(3, 3, SIZE, SIZE)
    inner = network.network
    features, logits = network(images)
    assert torch.allclose(logits.softmax(1), inner.head(inner.body(images)).softmax(1), atol=1e-6)
    assert torch.equal(features, inner.body(images)), "features are the penultimate ones, whoever returned them"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arguments": {"returns": "twins"}}, "2 tensors as wide as there are classes; say which is which"),
        ({"classes": 7}, "returns (2, 5) for 2 images, the data has 7 identities"),
        ({"arguments": {"returns": "text"}}, "returns no tensor for 2 images"),
        ({"arguments": {"returns": "nan"}}, "numbers that are not finite"),
        ({"outputs": ["features", "logits"]}, "--outputs names 2 tensors, the model returns 1"),
        ({"outputs": ["logit"]}, "unknown role 'logit'"),
        ({"arguments": {"returns": "pair"}, "outputs": ["logits", "features"]}, "is the order of the roles right?"),
        ({"features": "body.9"}, "no layer 'body.9' (it has: "),
        ({"size": None}, "add --size"),
        ({"size": 1}, "cannot run on images (2, 3, 1, 1)"),
        ({"siez": 1}, "did you mean 'size'?"),
        ({"std": [0.0]}, "--std positive"),
        ({"mean": [0.1, 0.2]}, "--mean takes one number or three, got 2"),
        ({"range": (255, 0)}, "such as 0,255"),
        ({"channel_order": "grb"}, "must be rgb or bgr"),
        ({"factory": "own_net"}, "expected package.module:build"),
        ({"factory": "own_nett:build"}, "no module 'own_nett' in"),
        ({"factory": "own_net:bild"}, "own_net has no 'bild' (it has: Net, broken, build"),
        ({"factory": "own_bad:build"}, "it needs module 'not_there_at_all', which is not installed"),
        ({"factory": "own_worse:build"}, "own_worse fails on import: ZeroDivisionError"),
        ({"factory": "own_net:needs", "arguments": {}}, "its arguments come from --set model.NAME=VALUE"),
        ({"factory": "own_net:broken", "arguments": {}}, "it raises ValueError: second line"),
        ({"factory": "own_net:text", "arguments": {}}, "expected a torch.nn.Module from it, got str"),
    ],
)
def test_a_model_in_code_that_does_not_fit_is_one_line(own: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError) as refused:
        taken_in(**settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_declared_roles_settle_what_shapes_cannot(own: Path) -> None:
    trained = taken_in("twins", outputs=["features", "logits"])
    network = network_of(trained)
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(network(images).logits, 2 * network(images).features)


def test_probabilities_are_logged_and_said(own: Path) -> None:
    trained = taken_in("softmax")
    assert "probabilities" in str(trained.notes)
    logits = network_of(trained)(torch.rand(2, 3, SIZE, SIZE)).logits
    assert torch.allclose(logits.exp().sum(1), torch.ones(2), atol=1e-6)
    saturated = recognise([torch.eye(CLASSES)[:2]], CLASSES)
    assert saturated == ("probabilities",)


@pytest.mark.parametrize(("name", "width"), [("body.0", 8 * 6 * 6), ("input:head", 32), ("", 32)])
def test_features_come_from_the_layer_that_was_named(own: Path, name: str, width: int) -> None:
    network = network_of(taken_in(features=name))
    images = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    output = network(images)
    assert output.features.shape == (2, width)
    output.features.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert network.captured() is None, "no graph is kept between calls"


# Images


@pytest.mark.parametrize(
    ("said", "value", "expected"),
    [
        ({}, 0.5, 0.5),
        ({"range": (-1, 1)}, 0.5, 0.0),
        ({"range": (0, 255)}, 1.0, 255.0),
        ({"mean": [0.5], "std": [0.5]}, 1.0, 1.0),
        ({"range": (0, 255), "mean": [127.5], "std": [127.5]}, 0.0, -1.0),
    ],
)
def test_range_mean_and_std_become_one_normalisation(said: dict[str, Any], value: float, expected: float) -> None:
    image = ImageConvention(classes=2, **said).image(4)
    assert (value - image.mean[0]) / image.std[0] == pytest.approx(expected)


def test_bgr_turns_the_channels_and_the_declared_means(own: Path) -> None:
    rgb, bgr = taken_in(), taken_in(channel_order="bgr", mean=[0.1, 0.2, 0.3], std=[1.0])
    assert bgr.image.mean == pytest.approx((0.3, 0.2, 0.1))
    first, second = network_of(rgb), network_of(bgr)
    second.network.load_state_dict(first.network.state_dict())
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(first(images).logits, second(images.flip(1)).logits)


# Weights and code


def test_weights_are_loaded_strictly_and_wrapper_names_come_back(own: Path) -> None:
    trained = taken_in()
    tensors = {name.removeprefix("network."): tensor + 1 for name, tensor in trained.weights.items()}
    settings = {"classes": CLASSES, "size": SIZE, "factory": "own_net:build"}
    loaded = import_module("module", [contents(tensors)], settings)
    assert torch.equal(loaded.weights["network.head.bias"], tensors["head.bias"])
    holder = nn.Module()
    holder.model = nn.Linear(2, 2)  # trap: a network whose own attribute looks like a wrapper's prefix
    fill(holder, contents({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, stripped=("module.", "model.")))
    assert torch.equal(holder.model.weight, torch.ones(2, 2))
    others = {n: t for n, t in tensors.items() if n != "head.bias"} | {"odd": torch.ones(1)}
    with pytest.raises(MibenchError, match=r"1 missing \(head.bias\); 1 unexpected \(odd\)"):
        import_module("module", [contents(others)], settings)
    with pytest.raises(MibenchError, match=r"shape \(head.bias: expected \(5,\), got \(2,\)\).*--set model"):
        import_module("module", [contents(tensors | {"head.bias": torch.ones(2)})], settings)


def test_changed_code_is_noticed_in_what_the_factory_imports_too(own: Path) -> None:
    before = code_of("own_net:build")
    trained = taken_in()
    network_of(trained)
    (own / "unrelated.py").write_text("x = 1\n")
    assert code_of("own_net:build") == before
    (own / "own_layers.py").write_text("def widened(width):\n    return 2 * width  # as before\n")
    assert code_of("own_net:build") != before
    with pytest.raises(MibenchError, match="the code of own_net:build has changed"):
        network_of(trained)


def test_tied_weights_can_be_stored(own: Path) -> None:
    (own / "own_tied.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 192, bias=False), nn.Linear(192, 192, bias=False),"
        " nn.Linear(192, 5))\n"
        "    net[2].weight = net[1].weight\n"
        "    return net\n"
    )
    save(dict(taken_in(factory="own_tied:build", arguments={}).weights))


# Files


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_an_onnx_file_is_a_victim_at_scores(
    own_models: Path, batch: int | str, channels_last: bool, softmax: bool
) -> None:
    content = onnx_file(batch=batch, channels_last=channels_last, softmax=softmax)
    trained = import_onnx("onnx", [as_file(content)], {"classes": CLASSES, "mean": [0.5], "std": [0.5]})
    assert trained.image == ImageSpec(size=SIZE, mean=(0.5,), std=(0.5,))
    victim = load.build_victim(stored(own_models, trained, access="scores"), Access.SCORES, CPU)
    images = torch.rand(5, 3, SIZE, SIZE)
    weights = numpy_helper.to_array(onnx.load_from_string(content).graph.initializer[0]).copy()
    expected = (((images - 0.5) / 0.5).mean(dim=(2, 3)) @ torch.from_numpy(weights)).softmax(1)
    assert torch.allclose(victim.scores(images), expected, atol=1e-5)
    assert torch.equal(victim.labels(images), expected.argmax(1))
    assert victim.queries.forward == 10
    with pytest.raises(AccessError, match="grants SCORES"):
        victim.logits(images)


def test_a_torchscript_file_is_a_victim_at_scores(own_models: Path) -> None:
    network = Flat()
    trained = import_torchscript("torchscript", [as_file(script_file(network))], {"classes": CLASSES, "size": SIZE})
    victim = load.build_victim(stored(own_models, trained, access="scores"), Access.SCORES, CPU)
    images = torch.rand(5, 3, SIZE, SIZE)
    assert torch.allclose(victim.scores(images), network(images).softmax(1), atol=1e-6)
    assert len({tuple(victim.scores(images).flatten().tolist()) for _ in range(5)}) == 1


@pytest.mark.gpu
def test_files_answer_where_the_images_are(accelerator: torch.device) -> None:
    device = accelerator
    for trained in (
        import_torchscript("torchscript", [as_file(script_file(Flat()))], {"classes": CLASSES, "size": SIZE}),
        import_onnx("onnx", [as_file(onnx_file())], {"classes": CLASSES}),
    ):
        network = network_of(trained)
        images = torch.rand(3, 3, SIZE, SIZE)
        expected = network(images).logits
        found = network.to(device)(images.to(device)).logits
        assert found.device.type == device.type
        assert torch.allclose(found.cpu(), expected, atol=1e-4)


def external(folder: Path) -> bytes:
    path = folder / "outside.onnx"
    model = onnx.load_from_string(onnx_file())
    onnx.save_model(model, path, save_as_external_data=True, location="outside.bin", size_threshold=0)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (lambda folder: b"<html>quota</html>", {}, "no ONNX model that onnxruntime can open"),
        (lambda folder: onnx_file()[:90], {}, "no ONNX model that onnxruntime can open"),
        (external, {}, "keeps its weights in another file"),
        (lambda folder: flat_onnx(), {}, "2 axes; expected images (N, 3, H, W)"),
        (lambda folder: onnx_file(channels=1), {}, "3 channels"),
        (lambda folder: onnx_file(shape=["N", 3, SIZE, 2 * SIZE]), {}, "square images"),
        (lambda folder: onnx_file(classes=3), {}, "the data has 5 identities"),
        (lambda folder: onnx_file(size="H"), {}, "add --size"),
        (lambda folder: onnx_file(), {"size": 32}, "--size 32: the model's file says 8"),
        (lambda folder: onnx_file(), {"features": "fc"}, "--features and --set model.* belong to a model in code"),
        (lambda folder: script_file(Flat()), {}, "no ONNX model that onnxruntime can open"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: Callable[[Path], bytes],
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # trap: onnxruntime reads external data from the working directory
    with pytest.raises(MibenchError) as refused:
        import_onnx("onnx", [as_file(content(tmp_path))], {"classes": CLASSES, **settings})
    assert message.lower() in str(refused.value).lower()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (b"no script", SIZE, "no TorchScript model"),
        (None, 2 * SIZE, "cannot run on images (2, 3, 16, 16)"),
        (None, None, "add --size"),
    ],
)
def test_a_torchscript_file_that_does_not_fit_is_one_line(
    content: bytes | None, size: int | None, message: str
) -> None:
    with pytest.raises(MibenchError) as refused:
        import_torchscript("torchscript", [as_file(content or script_file(Flat()))], {"classes": CLASSES, "size": size})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_onnxruntime_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MibenchError, match=r'pip install "mibench\[onnx\]"'):
        import_onnx("onnx", [as_file(onnx_file())], {"classes": CLASSES})


def test_a_script_in_training_mode_is_noticed() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), Flat())
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(network.train(), torch.rand(4, 3, SIZE, SIZE))
        torch.jit.save(scripted, buffer)
    settings = {"classes": CLASSES, "size": SIZE}
    trained = import_torchscript("torchscript", [as_file(buffer.getvalue())], settings)
    assert "training mode" in str(trained.notes)
    assert import_torchscript("torchscript", [as_file(script_file(network))], settings).notes == ()


# Access


def test_an_attack_that_needs_more_than_the_card_gives_is_refused_with_those_that_need_less(own_models: Path) -> None:
    trained = import_onnx("onnx", [as_file(onnx_file(classes=6))], {"classes": 6})
    stored(own_models, trained, access="scores")
    names = {"target": "onnx@toyfaces+mine", "dataset": "toyfaces", "protocol": "toy", "prior": "toygan"}
    with pytest.raises(
        AccessError, match=r"'toyattack' needs gradients, target .* scores; choose .*\(badattack, floor\)"
    ):
        make_plan(RunRequest(attack="toyattack", **names))
    assert make_plan(RunRequest(attack="floor", **names)).spec.target.architecture == "onnx"


def test_a_card_cannot_promise_more_than_its_kind_of_network_can(own_models: Path) -> None:
    card = stored(own_models, import_onnx("onnx", [as_file(onnx_file(classes=6))], {"classes": 6}))  # says gradients
    with pytest.raises(AccessError, match="no more than scores, gradients was asked for"):
        load.build_victim(card, Access.GRADIENTS, CPU)


def test_a_card_may_say_less_than_its_network_can(own_models: Path, own: Path) -> None:
    card = stored(own_models, taken_in(), access="labels")
    assert load.build_victim(card, Access.LABELS, CPU).labels(torch.rand(2, 3, SIZE, SIZE)).shape == (2,)
    with pytest.raises(AccessError, match="no more than labels"):
        load.build_victim(card, Access.SCORES, CPU)


def test_a_target_without_a_usable_gradient_grants_none(own_models: Path, own: Path) -> None:
    """Whatever its card says: it may be older than the look at gradients, or written by hand."""
    (own / "own_rounded.py").write_text(
        "from torch import nn\n"
        "class Rounded(nn.Sequential):\n"
        "    def forward(self, x): return super().forward((x * 4).round() / 4)\n"
        "def build(): return Rounded(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    card = stored(own_models, taken_in(factory="own_rounded:build", arguments={}))
    with pytest.raises(AccessError, match=r"gives no usable gradient: it is zero everywhere .* makes do with scores"):
        load.build_victim(card, Access.GRADIENTS, CPU)
    assert load.build_victim(card, Access.SCORES, CPU).scores(torch.rand(2, 3, SIZE, SIZE)).shape == (2, CLASSES)


def test_a_look_at_gradients_is_not_counted(own_models: Path, own: Path) -> None:
    victim = load.build_victim(stored(own_models, taken_in()), Access.GRADIENTS, CPU)
    assert (victim.queries.forward, victim.queries.backward) == (0, 0)


def test_own_models_are_taken_in_not_trained() -> None:
    from mibench.weights.training import find_recipe

    with pytest.raises(MibenchError, match="mibench audit takes it in"):
        find_recipe("target", "onnx")
    with pytest.raises(MibenchError, match="mibench audit --model"):
        cards.find("target", "onnx+mine", "synthfaces")
