"""RoLSS and its kin: the reference unit, which units lose their shortcut, unchanged keys, cards that rebuild, TTS."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from defended import VECTORS, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import nn
from torchvision.models.resnet import BasicBlock

import mibench
from mibench.api import MibenchError
from mibench.targets.defences.removed_shortcuts import RemovedShortcuts, TwoPhaseHooks
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.shortcuts import KeptChannels, ScaledShortcut, weaken
from mibench.targets.networks.torchvision_networks import (
    DENSENET121,
    RESNET18,
    RESNET34,
    RESNET101,
    RESNET152,
    VIT_B_16,
)
from mibench.weights.cards import find
from mibench.weights.load import build_network

REFERENCE = VECTORS["rolss"]
PAPER = (1.0, 1.0, 1.0, 0.0)
NARROW = {"width": 1 / 16, "size": 32}


def reference_stage() -> nn.Sequential:
    block = BasicBlock(2, 2).double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            if parameter.dim() == 4:
                parameter.copy_(sines(0.5, 0.3 + 0.05 * number, parameter.shape))
            elif number in (1, 4):
                parameter.copy_(sines(0.1, 0.7, parameter.shape, offset=1.0))
            else:
                parameter.copy_(sines(0.1, 0.9, parameter.shape))
    return nn.Sequential(block)


@pytest.mark.parametrize("skip", REFERENCE["out"])
def test_the_residual_unit_is_the_reference_one(skip: str) -> None:
    network = nn.Module()
    for stage in range(1, 4):
        network.add_module(f"layer{stage}", nn.Sequential())
    network.layer4 = reference_stage()
    weaken(network, [1, 1, 1, float(skip)])
    with torch.no_grad():
        outputs = network.layer4(sines(1.0, 0.4, (1, 2, 3, 3))).flatten().tolist()
    assert outputs == pytest.approx(REFERENCE["out"][skip], abs=1e-6)


@pytest.mark.parametrize("build", [IR152, FaceNet64], ids=["ir152", "facenet64"])
def test_the_last_group_of_an_ir_network_is_its_residual_branch(build: type) -> None:
    network = build(5, **NARROW, skip=PAPER).eval()
    weakened = [name for name, module in network.feature.body.named_children() if module.weakened]
    assert weakened == (["47", "48", "49"] if build is IR152 else ["21", "22", "23"])
    for name in weakened:
        unit = network.feature.body[int(name)]
        maps = torch.randn(2, unit.res_layer[0].num_features, 4, 4)
        assert torch.equal(unit(maps), unit.res_layer(maps))
    half = build(5, **NARROW, skip=(1, 1, 1, 0.5)).eval().feature.body[-1]
    maps = torch.randn(2, half.res_layer[0].num_features, 4, 4)
    assert torch.allclose(half(maps), half.res_layer(maps) + 0.5 * maps)


@pytest.mark.parametrize(
    ("name", "build"),
    [("resnet18", RESNET18), ("resnet34", RESNET34), ("resnet101", RESNET101), ("resnet152", RESNET152)],
)
def test_the_released_variant_loses_the_shortcuts_that_the_release_does(name: str, build) -> None:
    expected = REFERENCE["released_code_layer3"][name]
    network = build(5, **NARROW, skip=(1, 1, 1, 1), released_split=True)
    for stage, key in ((3, "layer3 blocks without skip when skip is not given"), (4, "layer4")):
        units = network.get_submodule(f"layer{stage}").children()
        lost = [number for number, unit in enumerate(units) if isinstance(unit.downsample, ScaledShortcut)]
        assert lost == expected[key]


@pytest.mark.parametrize(
    ("build", "skip"),
    [(RESNET18, PAPER), (RESNET18, (1, 1, 0.5, 0.2)), (DENSENET121, PAPER), (FaceNet64, PAPER)],
)
def test_published_weights_fit_and_whole_shortcuts_are_the_published_network(build, skip) -> None:
    torch.manual_seed(0)
    published, weakened = build(5, **NARROW).eval(), build(5, **NARROW, skip=skip).eval()
    assert list(weakened.state_dict()) == list(published.state_dict())
    weakened.load_state_dict(published.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(weakened(images).logits, published(images).logits, atol=1e-6)
        for module in weakened.modules():
            if hasattr(module, "weakened"):
                module.weakened = False
        assert torch.equal(weakened(images).logits, published(images).logits)


def test_a_dense_layer_reads_the_newest_map_and_the_kept_part_of_older_ones() -> None:
    network = DENSENET121(5, width=0.5, size=32, skip=(1, 1, 1, 0.25))
    layers = list(network.features.denseblock4.children())
    growth = layers[0].conv2.out_channels
    first = layers[0].conv1.in_channels
    assert layers[0].relu1.kept.all()
    kept = layers[2].relu1.kept.flatten()
    counts = [int(part.sum()) for part in kept.split([first, growth, growth])]
    assert counts == [round(0.25 * first), round(0.25 * growth), growth]
    assert not any(isinstance(module, KeptChannels) for module in network.features.denseblock3.modules())
    maps = torch.randn(1, len(kept), 2, 2)
    read = layers[2].relu1(maps.clone())
    assert torch.equal(read, maps.relu() * kept.view(1, -1, 1, 1))


def test_whole_shortcuts_and_other_networks_are_left_alone() -> None:
    defence = RemovedShortcuts(skip=(1.0, 1.0, 1.0, 1.0))
    assert defence.architecture("ir152", {"width": 1.0}) == ("ir152", {"width": 1.0})
    settings = {"architecture": "facenet64", "epochs": 1}
    assert same_weights(train_tiny(**settings), train_tiny(defence, **settings))
    with pytest.raises(MibenchError, match="no shortcuts that can be weakened"):
        VIT_B_16(5, 1 / 4, size=32, skip=PAPER)


def test_its_weights_are_trained_and_resumed_exactly_in_two_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[bool] = []
    apply = TwoPhaseHooks.batch

    def watched(self, batch):
        done = apply(self, batch)
        phases.append(all(unit.weakened for unit in self.units) if len(self.units) == 3 else None)
        return done

    monkeypatch.setattr(TwoPhaseHooks, "batch", watched)
    settings = {"architecture": "facenet64", "epochs": 2}
    defence = RemovedShortcuts(removed_after=0.5)
    whole = train_tiny(defence, **settings)
    assert phases == [False] * 6 + [True] * 6
    assert whole.arguments["skip"] == [1.0, 1.0, 1.0, 0.0]
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(defence, **settings, checkpoint=stopped)
    assert same_weights(whole, train_tiny(defence, **settings, checkpoint=stopped))


def test_the_card_rebuilds_the_defended_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    settings = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 10, "dataset.train_images": 8}
    settings |= {"train.size": 32, "defence.skip": [1, 1, 1, 0.2]}
    card = mibench.train("target", "facenet64", defences="rolss", twin="none", settings=settings, device="cpu").card
    assert card.arguments["skip"] == [1.0, 1.0, 1.0, 0.2]
    network, _ = build_network(find("target", "facenet64+rolss", "synthfaces"))
    assert [unit.skip for unit in network.feature.body if unit.weakened] == [0.2, 0.2, 0.2]


def test_architectures_without_shortcuts_and_nonsense_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    with pytest.raises(MibenchError, match="'rolss' does not apply to vgg16"):
        mibench.train("target", "vgg16", defences="rolss", device="cpu")
    with pytest.raises(MibenchError, match="no variant of ir152"):
        RemovedShortcuts(variant="released").architecture("ir152", {})
    for settings, line in (
        ({"skip": (1.0, 0.0)}, "four factors"),
        ({"skip": (1.0, 1.0, 1.0, 2.0)}, "four factors"),
        ({"removed_after": 1.0}, "share of the epochs"),
        ({"variant": "code"}, "choose one of paper, released"),
    ):
        with pytest.raises(MibenchError, match=line):
            RemovedShortcuts(**settings).check()
