"""TL-DMI: what is frozen, that it stays as it was, and that the rest is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from defended import VECTORS, same_weights, train_tiny
from powercut import Memory, Stopped
from torch import nn

import mibench
from mibench.api import MibenchError
from mibench.targets.defences.transfer_learning import FreezingHooks, TransferLearning, first_share, frozen_layers
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training.backbones import without_classifier
from mibench.weights.cards import find
from mibench.weights.load import build_network, load_weights

NETWORKS = {"VGG16": VGG16, "IR152": IR152, "FaceNet64": FaceNet64}
REFERENCE = VECTORS["tl_dmi"]


@pytest.fixture(scope="module")
def whole() -> dict[str, nn.Module]:
    """The published networks with 1000 classes, without memory for their weights."""
    with torch.device("meta"):
        return {name: kind(num_classes=1000) for name, kind in NETWORKS.items()}


def counted(network: nn.Module, frozen: list[nn.Module]) -> tuple[int, int]:
    """Trained and all parameters, by the hooks' own report; the network is thawed again."""
    wanted = {name: p.requires_grad for name, p in network.named_parameters()}
    measured = FreezingHooks(network, frozen).measured(network)
    for name, p in network.named_parameters():
        p.requires_grad_(wanted[name])
    return int(measured["trained_parameters"]), int(measured["parameters"])


@pytest.mark.parametrize("case", REFERENCE["counts"])
def test_an_index_freezes_as_many_parameters_as_in_the_released_code(case: str, whole: dict[str, nn.Module]) -> None:
    name, _, last = case.partition(" freeze_layers=")
    expected, network = REFERENCE["counts"][case], whole[name]
    stem = "trained" if expected.get("input_layer_trainable") else "frozen"
    found = counted(network, frozen_layers(network, int(last), input_layer=stem))
    assert found == (expected["trainable"], expected["total"])
    if stem == "trained" and int(last):  # the default freezes the stem too
        own, _ = counted(network, frozen_layers(network, int(last)))
        assert found[0] - own == sum(p.numel() for p in network.feature.input_layer.parameters())  # type: ignore[union-attr]


def test_the_share_of_the_toolbox(whole: dict[str, nn.Module]) -> None:
    for name in ("VGG16", "IR152"):
        expected = REFERENCE[f"toolbox_freeze_front_layers_0.5_{name}"]
        network = whole[name]
        # its VGG16 trains the bias of `bn`, which is frozen in the published network
        untrained = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        frozen = first_share(network, 0.5)
        assert counted(network, frozen) == (expected["trainable"] - untrained, expected["total"])
        inside = {p for module in frozen for p in module.parameters()}
        first = next(key for key, p in network.named_parameters() if p not in inside)
        assert first == expected["first_trainable"]


def public_weights(kind: type[nn.Module]) -> dict[str, torch.Tensor]:
    """A public backbone: other weights, and statistics that are not those of a fresh network."""
    torch.manual_seed(5)
    network = kind(num_classes=3, width=1 / 16, size=32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean += 0.1  # type: ignore[operator]
            module.num_batches_tracked += 7  # type: ignore[operator]
    return without_classifier(network.state_dict())


@pytest.mark.parametrize(
    ("name", "last", "layers"), [("vgg16", 26, "feature.25."), ("facenet64", 5, "feature.body.5.")]
)
def test_frozen_weights_and_statistics_are_the_public_ones_and_the_rest_is_trained(
    name: str, last: int, layers: str
) -> None:
    weights = public_weights({"vgg16": VGG16, "facenet64": FaceNet64}[name])
    trained = train_tiny(TransferLearning(), architecture=name, initial=weights, epochs=1)
    public = {key if key.startswith(("feature.", "bn.")) else f"feature.{key}": value for key, value in weights.items()}
    depth = 2 if name == "facenet64" else 1
    kept, moved = [], []
    for key, value in trained.weights.items():
        if key not in public or key.startswith(("bn.", "output_layer.")):
            continue
        part = key.split(".")[depth] if not key.startswith("feature.input_layer.") else "0"
        if int(part) > last and key.endswith(".bias") and not public[key].any():
            continue  # before a norm a bias has no gradient: one that begins at 0 stays there
        (kept if int(part) <= last else moved).append(torch.equal(value, public[key]))
        assert not key.startswith(layers) or kept[-1], key
    assert kept
    assert all(kept)
    assert moved
    assert not any(moved)
    assert trained.measured["trained_parameters"] < trained.measured["parameters"]


def test_statistics_of_frozen_layers_move_where_that_is_asked_for() -> None:
    weights = public_weights(VGG16)
    trained = train_tiny(TransferLearning(frozen_bn="update"), initial=weights, epochs=1)
    assert torch.equal(trained.weights["feature.24.weight"], weights["feature.24.weight"])
    assert not torch.equal(trained.weights["feature.25.running_mean"], weights["feature.25.running_mean"])


def test_no_graph_is_built_through_frozen_layers() -> None:
    network = VGG16(num_classes=3, width=1 / 16, size=32)
    FreezingHooks(network, frozen_layers(network, 26))
    seen: list[bool] = []
    for index in (26, 27):
        network.feature[index].register_forward_hook(lambda module, given, output: seen.append(output.requires_grad))
    network(torch.rand(4, 3, 32, 32))
    assert seen == [False, True]


def test_a_resumed_training_equals_an_uninterrupted_one() -> None:
    weights = public_weights(VGG16)
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(TransferLearning(), initial=weights, checkpoint=stopped)
    resumed = train_tiny(TransferLearning(), initial=weights, checkpoint=stopped)
    assert same_weights(train_tiny(TransferLearning(), initial=weights), resumed)


def test_another_network_and_an_index_out_of_range_are_refused() -> None:
    with pytest.raises(MibenchError, match=r"backbone 'vgg16\+public' is not the one of vgg16"):
        train_tiny(TransferLearning(), initial=public_weights(FaceNet64))
    with pytest.raises(MibenchError, match=r"defence.freeze_layers must lie in 0..43, the layers here, got 44"):
        train_tiny(TransferLearning(freeze_layers=44), initial=public_weights(VGG16))
    for settings, message in (
        ({"freeze_layers": 1, "freeze_share": 0.5}, "exclude each other"),
        ({"freeze_share": 1.0}, r"must lie in \[0, 1\)"),
        ({"freeze_layers": -1}, "must be 0 or more"),
        ({"frozen_bn": "eval"}, "choose one of frozen, update"),
    ):
        with pytest.raises(MibenchError, match=message):
            TransferLearning(**settings).check()


def test_the_card_names_the_public_backbone_and_the_network_loads_back(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    world = {"dataset.identities": 6, "dataset.public_identities": 12, "dataset.public_images": 60}
    tiny = {"train.width": 0.0625, "train.epochs": 1, "train.size": 32, **world}
    with pytest.raises(MibenchError, match="train them on public people with `mibench train backbone vgg16"):
        mibench.train("target", "vgg16", defences="tl-dmi", twin="none", tag="again", settings=tiny, device="cpu")
    public = mibench.train("backbone", "vgg16", settings=tiny, device="cpu").card
    card = mibench.train(
        "target", "vgg16", defences="tl-dmi:small", twin="none", tag="again", settings=tiny, device="cpu"
    ).card
    assert card.name == "vgg16@synthfaces+again"
    assert card.recipe["public_sha256"] == {"tl-dmi": public.weights.sha256}
    network, _ = build_network(find("target", "vgg16+again", "synthfaces"))
    kept = load_weights(find("backbone", "vgg16+public", "synthfaces"))
    assert torch.equal(network.state_dict()["feature.24.weight"], kept["feature.24.weight"])
