"""Somebody's own model in code as a target: what it returns, its images, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from own_models import CLASSES, SIZE, contents, network_of, taken_in
from safetensors.torch import load, save
from torch import nn

from mibench.api import MibenchError
from mibench.targets.custom.factory import code_of
from mibench.targets.custom.importing import fill, import_module
from mibench.targets.custom.outputs import recognise
from mibench.targets.custom.preprocessing import ImageConvention


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


def test_probabilities_become_logits_and_get_a_note(own: Path) -> None:
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
    stored = load(save(dict(taken_in(factory="own_tied:build", arguments={}).weights)))
    assert torch.equal(stored["network.1.weight"], stored["network.2.weight"])
