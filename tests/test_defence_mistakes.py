"""Combinations of defences, twins and backbones that would give a number of something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from defended import train_tiny

import mibench
from mibench.api import Access, FilteredAnswers, ImageSpec, MibenchError, Victim
from mibench.targets.defences.answer_filters import Noise, Rounding
from mibench.targets.defences.anti_adversarial import AntiAdversarial
from mibench.targets.defences.bido import BiDO
from mibench.targets.defences.label_smoothing import LabelSmoothing, NegativeLabelSmoothing
from mibench.targets.defences.removed_shortcuts import RemovedShortcuts
from mibench.targets.defences.trap_mid import TrapMID
from mibench.weights.checkpoint import FileCheckpoint

TINY_DATA = {
    "dataset.identities": 10,
    "dataset.train_images": 8,
    "dataset.public_identities": 20,
    "dataset.public_images": 60,
}
TINY_TRAINING = {"train.width": 0.0625, "train.epochs": 1, "train.batch_size": 16}


@pytest.mark.parametrize("defence", [LabelSmoothing(), NegativeLabelSmoothing(), AntiAdversarial(), TrapMID()])
def test_smoothing_that_a_defence_would_ignore_is_refused(defence) -> None:
    with pytest.raises(MibenchError, match=r"train.label_smoothing=0.1 has no effect beside the defence"):
        train_tiny(defence, label_smoothing=0.1)


def test_two_defences_that_decide_on_one_thing_are_refused() -> None:
    with pytest.raises(MibenchError, match="ls and negls both decide on the classification loss"):
        train_tiny(LabelSmoothing(), NegativeLabelSmoothing())


def test_shortcuts_that_would_never_be_removed_are_refused() -> None:
    with pytest.raises(MibenchError, match=r"leaves none of 6 epochs without shortcuts; set it to 0.833 or less"):
        train_tiny(RemovedShortcuts(removed_after=0.9), architecture="facenet64", epochs=6)


@pytest.mark.parametrize("layer", ["", "feature.99"])
def test_a_layer_that_is_none_is_named(layer: str) -> None:
    with pytest.raises(MibenchError, match=f"no layer '{layer}'"):
        train_tiny(BiDO(layers=(layer,)))


def test_the_twin_is_of_the_same_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    with pytest.raises(MibenchError, match="the twin ir152@synthfaces has the architecture ir152, not vgg16"):
        mibench.train("target", "vgg16", defences="negls", twin="ir152", tag="again", device="cpu")


def test_public_weights_belong_to_the_data_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another seed the people who are public there may be private here."""
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    other = {**TINY_DATA, "dataset.seed": 7}
    mibench.train("backbone", "vgg16", settings={**TINY_TRAINING, **other}, device="cpu")
    for option in ({"defences": "tl-dmi", "tag": "y"}, {"tag": "x"}):
        settings = {**TINY_TRAINING, **TINY_DATA}
        settings |= {"train.init": "vgg16@synthfaces+public"} if "defences" not in option else {}
        with pytest.raises(MibenchError, match=r"backbone 'vgg16@synthfaces\+public' was trained on another version"):
            mibench.train("target", "vgg16", settings=settings, device="cpu", **option)


def test_the_order_of_defences_tells_trainings_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may share a tag; what one began must not be continued by the other."""
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    folders: set[str] = set()

    def stop(checkpoint: FileCheckpoint) -> None:
        folders.add(checkpoint.path.parent.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(FileCheckpoint, "load", stop)
    settings = {**TINY_TRAINING, **TINY_DATA}
    for defences in (["midre", "mid"], ["mid", "midre"]):
        with pytest.raises(KeyboardInterrupt):
            mibench.train("target", "vgg16", defences=defences, tag="x", settings=settings, device="cpu")
    assert len(folders) == 2


class Linear(torch.nn.Module):
    """Ten classes, linear in 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(48, 10)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = images.flatten(1)
        return flat, self.layer(flat)


def test_noise_does_not_cancel_between_images_that_get_the_same_noise() -> None:
    """Finite differences below half a grey level would read the gradient off answers with one and the same noise."""
    torch.manual_seed(0)
    noisy, plain = (
        Victim(Linear(), image=ImageSpec(size=4), num_classes=10, access=Access.SCORES, answer=FilteredAnswers([one]))
        for one in (Noise(scale=0.01), Rounding(decimals=12))
    )
    images = (torch.rand(3, 3, 4, 4) * 255).round() / 255
    moved = images + 0.4 / 255
    assert torch.equal(noisy.scores(images), noisy.scores(moved))
    assert not torch.equal(plain.scores(images), plain.scores(moved))  # other filters see what they are shown


def test_a_training_without_defences_records_its_seconds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    card = mibench.train("target", "vgg16", tag="x", settings={**TINY_TRAINING, **TINY_DATA}, device="cpu").card
    assert card.measured is not None
    assert card.measured["seconds"] > 0
