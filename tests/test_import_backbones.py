"""Backbones are stored whole, and trainings start from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import BACKBONES, SMALL_WORLD, WIDTH, backbone, bring, save, stored
from torch import Tensor, nn

from mibench.errors import MibenchError
from mibench.weights import cards
from mibench.weights.load import build_network


@pytest.mark.parametrize(("name", "dataset"), [("ir50", "ms1m"), ("ir152", "ms1m"), ("vgg16_bn", "imagenet")])
def test_backbones_are_stored_whole(home: Path, tmp_path: Path, name: str, dataset: str) -> None:
    weights = backbone(name)
    extra = {"classifier.0.weight": torch.zeros(2)} if name == "vgg16_bn" else {}
    path = save(tmp_path / "a.pth", {**weights, **extra}, container="bare", prefix="", legacy=False)
    done = bring(f"backbone:{name}@{dataset}", path)
    assert done.card.classes is None
    assert stored(done).keys() == weights.keys()
    assert done.card.image.size == (224 if extra else 112)
    network, _ = build_network(cards.all_cards()[f"{name}@{dataset}"])
    assert isinstance(network, BACKBONES[name])
    assert network(torch.rand(1, 3, 64 if extra else 112, 64 if extra else 112)).shape[1] == 32


@pytest.mark.parametrize(
    ("kind", "architecture", "name"),
    [
        ("target", "facenet64", "ir50@ms1m"),
        ("target", "ir152", "ir152@ms1m"),
        ("target", "vgg16", "vgg16_bn@imagenet"),
        ("judge", "facenet112", "ir50@ms1m"),
    ],
)
def test_a_training_starts_from_a_backbone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, architecture: str, name: str
) -> None:
    """The output layer of an MS1M file goes into the judge and is left out of the 64-pixel targets."""
    from mibench.targets.training import recipes
    from mibench.targets.training.supervised import TrainingSummary
    from mibench.weights.training import Training, train

    seen: dict[str, Tensor] = {}

    def untrained(network: nn.Module, *arguments: Any, **named: Any) -> Any:
        seen.update({key: tensor.clone() for key, tensor in network.state_dict().items()})
        return TrainingSummary(1, "last epoch", {})

    monkeypatch.setattr(recipes, "fit", untrained)
    weights = backbone(name.partition("@")[0])
    bring(f"backbone:{name}", save(tmp_path / "a.pth", weights, container="bare", prefix=""))
    settings = {"train": {"init": name, "width": WIDTH, "epochs": 1}, **SMALL_WORLD}
    _, card = train(Training(kind=kind, architecture=architecture, tag="own", settings=settings), device="cpu")
    sha256 = cards.all_cards()[name].card().weights.sha256
    assert card.recipe["init"] == name
    assert card.recipe["init_sha256"] == sha256
    assert f"train.init={name}" in card.recipe["command"]
    judge = kind == "judge"
    for key, tensor in weights.items():
        ours = f"feature.{key.removeprefix('features.')}"
        assert (ours in seen) == (judge or not key.startswith("output_layer.")), key
        assert ours not in seen or torch.equal(seen[ours], tensor), key


def test_trainings_from_different_backbones_do_not_share_a_checkpoint(home: Path, tmp_path: Path) -> None:
    from mibench.weights.training import Training, _digest, resolve_training

    def digest(sha256: str, **settings: Any) -> str:
        training = Training(kind="target", architecture="facenet64", settings={"train": settings})
        recipe = resolve_training(training).recipe
        return _digest(training, recipe, {"recipe": dataclasses.asdict(recipe), "init_sha256": sha256})

    assert len({digest("a"), digest("b"), digest("a", init="ir50@ms1m"), digest("a", init="ir50@x")}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "ir50"}, r"train.init=ir50; name the whole card, such as ir50@ms1m"),
        (
            {"init": "ir50@casia"},
            r"no weights of the backbone 'ir50@casia' are here.*mibench import FILE --as backbone",
        ),
        ({"init": "ir5@ms1m"}, r"unknown backbone 'ir5'; did you mean 'ir50'"),
        ({"init": "vgg16_mid@ms1m"}, r"is a target, it can never be chosen as the backbone"),
        ({"init": "ir152@ms1m"}, r"backbone 'ir152@ms1m' is not the one of facenet64: .*at the same train.width"),
        ({"init": "ir50@ms1m", "width": 0.125}, r"is not the one of facenet64: .*of another shape"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(
    home: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    from mibench.weights.training import Training, train

    for name in {"ir152@ms1m": ["ir152"], "ir50@ms1m": ["ir50"]}.get(settings["init"], []):
        bring(f"backbone:{name}@ms1m", save(tmp_path / "a.pth", backbone(name), container="bare", prefix=""))
    chosen = {"train": {"width": WIDTH, "epochs": 1, **settings}, **SMALL_WORLD}
    with pytest.raises(MibenchError, match=message):
        train(Training(kind="target", architecture="facenet64", tag="own", settings=chosen), device="cpu")


def test_a_bottleneck_is_not_trained_without_its_loss(home: Path) -> None:
    from mibench.weights.training import Training, train

    with pytest.raises(MibenchError, match="vgg16_mid is not trained by itself: train vgg16 with --defence mid"):
        train(Training(kind="target", architecture="vgg16_mid", settings=SMALL_WORLD), device="cpu")
