"""Backbones trained on public people: who is on which side, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import mibench
from mibench.api import MibenchError, TrainingContext
from mibench.cli import cli
from mibench.data.datasets.synthfaces import SynthFaces
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training.backbones import (
    IR50Backbone,
    IR152Backbone,
    VGG16Backbone,
    start_features_from,
    start_from,
    without_classifier,
)
from mibench.targets.training.public_people import labelled_people
from mibench.weights.cards import find
from mibench.weights.load import build_network, load_weights
from mibench.weights.training import find_recipe

WORLD = {"dataset.identities": 6, "dataset.public_identities": 12, "dataset.public_images": 60}
TINY = {"train.width": 0.0625, "train.epochs": 1, "train.size": 32, **WORLD}
PAIRS = {"vgg16": (VGG16, VGG16Backbone), "ir152": (IR152, IR152Backbone), "facenet64": (FaceNet64, IR50Backbone)}


def test_people_are_labelled_in_their_order_and_some_images_of_each_held_out() -> None:
    labels, held = labelled_people(("a", "lone", "b", "a", "b", "a", "a", "a", "c", "c"), 2, 0.4)
    assert labels.tolist() == [0, -1, 1, 0, 1, 0, 0, 0, -1, -1]
    assert held.nonzero().squeeze(1).tolist() == [4, 6, 7]  # the last of two, the last two of five
    everybody, _ = labelled_people(("a", "a", "b", "b"), 0, 0.9)
    assert everybody.tolist() == [0, 0, 1, 1]
    assert labelled_people(("a", "a", "b", "b"), 0, 0.9)[1].tolist() == [False, True, False, True]  # never all


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_kept_is_the_backbone_and_starts_a_target(name: str) -> None:
    target, backbone = PAIRS[name]
    public = target(num_classes=9, width=1 / 16, size=32)
    weights = without_classifier(public.state_dict())
    kept = backbone(1 / 16, size=32)
    kept.load_state_dict(weights)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = public.eval()(images).features
    assert torch.equal(kept.eval()(images), features)
    whole, convolutions = (target(num_classes=4, width=1 / 16, size=32).eval() for _ in range(2))
    start_features_from(whole, weights, backbone="public")
    assert torch.equal(whole(images).features, features)
    start_from(convolutions, weights, backbone="public", architecture=name)
    assert torch.equal(convolutions.feature(images), public.feature(images))
    with pytest.raises(MibenchError, match="does not make the features of this network"):
        start_features_from(target(num_classes=4, width=1 / 8, size=32), weights, backbone="public")


def test_the_recipe_sees_public_images_only_and_its_card_says_what_it_learnt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))

    def private(*arguments: object, **named: object) -> None:
        raise AssertionError("a public backbone must not see private images")

    monkeypatch.setattr(SynthFaces, "private", private)
    card = mibench.train("backbone", "vgg16", settings={**TINY, "train.identities": 10}, device="cpu").card
    assert (card.name, card.kind, card.classes) == ("vgg16@synthfaces+public", "backbone", None)
    assert card.measured is not None
    assert (card.measured["identities"], card.measured["train_images"], card.measured["test_images"]) == (10, 40, 10)
    network, _ = build_network(find("backbone", "vgg16+public", "synthfaces"))
    assert network(torch.rand(3, 3, 32, 32)).shape == (3, 32)


def test_a_target_starts_from_a_backbone_trained_here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    start = {**TINY, "train.init": "vgg16@synthfaces+public", "train.learning_rate": 1e-30, "train.weight_decay": 0}
    done = CliRunner().invoke(
        cli, ["train", "target", "vgg16", "--tag", "on", "--set", "train.init=vgg16@synthfaces+public"]
    )
    assert done.exit_code == 2
    assert "train them on public people with `mibench train backbone vgg16" in " ".join(done.output.split())
    mibench.train("backbone", "vgg16", settings=TINY, device="cpu")
    mibench.train("target", "vgg16", tag="on", settings=start, device="cpu")
    public, private = (
        load_weights(find(kind, name, "synthfaces"))
        for kind, name in (("backbone", "vgg16+public"), ("target", "vgg16+on"))
    )
    assert torch.equal(public["feature.40.weight"], private["feature.40.weight"])


def test_a_backbone_of_the_twins_name_and_other_weights_is_a_difference_to_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    start = {**TINY, "train.init": "vgg16@synthfaces+public"}
    first = mibench.train("backbone", "vgg16", settings=TINY, device="cpu").card.weights.sha256
    mibench.train("target", "vgg16", tag="on", settings=start, device="cpu")
    differing = []
    for seed in (0, 1):  # of the backbone that the name stands for when the defended network is trained
        other = mibench.train("backbone", "vgg16", settings=TINY, seed=seed, device="cpu").card.weights.sha256
        card = mibench.train(
            "target", "vgg16", defences="none", twin="vgg16+on", tag="again", settings=WORLD, device="cpu"
        ).card
        assert card.defence is not None
        differing.append(dict(card.defence.differs_from_twin))
    assert first != other
    assert differing == [{}, {"init_sha256": (first, other)}]


def test_images_of_nobody_twice_make_no_backbone(checkpoint_free_context: TrainingContext) -> None:
    recipe = find_recipe("backbone", "vgg16")(size=32, width=1 / 16)
    faces = SynthFaces(identities=2, public_identities=8, public_images=8)
    with pytest.raises(MibenchError, match="choose a data set whose public images carry identities"):
        recipe.run(lambda size: faces.public(size), checkpoint_free_context)


@pytest.fixture
def checkpoint_free_context() -> TrainingContext:
    class Nowhere:
        def load(self) -> None:
            return None

        def save(self, state: object) -> None:
            pass

    return TrainingContext(device=torch.device("cpu"), checkpoint=Nowhere())
