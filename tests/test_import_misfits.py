"""Files that do not fit: strict by default, every key named, the likely cause said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CLASSES, backbone, bido, bring, contents, gan, save, state
from torch import Tensor

from mibench.api import TrainedWeights
from mibench.errors import MibenchError, MisfitError, StateDictMismatch
from mibench.targets.importing.released import import_classifier
from mibench.weights.importing.requested_name import parse


def fails(path: Path, wanted: str, cause: str) -> StateDictMismatch:
    with pytest.raises(MisfitError, match=cause) as caught:
        bring(wanted, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    return caught.value.misfit


def test_the_released_loader_was_not_strict_ours_is_and_names_every_key(home: Path, tmp_path: Path) -> None:
    weights = state("ir152")
    weights["extra.weight"] = weights.pop("fc_layer.bias")
    weights["output_layer.3.bias"] = torch.zeros(3)
    misfit = fails(save(tmp_path / "a.tar", weights), "target:ir152@celeba", "1 missing")
    assert misfit.missing == ["fc_layer.bias"]
    assert misfit.unexpected == ["extra.weight"]
    assert misfit.misshapen == {"output_layer.3.bias": ((32,), (3,))}
    assert not home.exists()


def softmax_facenet() -> dict[str, Tensor]:
    weights = state("facenet64")
    return {key.replace("fc_layer.", "fc_layer.0."): tensor for key, tensor in weights.items()}


def facenet_with_unused_layer() -> dict[str, Tensor]:
    weights = state("facenet64")
    return {**weights, "feature.output_layer.3.weight": torch.zeros(4, 32 * 14 * 14)}


MISFITS = {
    "swapped checkpoint": ("ir152", "target:facenet64@celeba", r"it is ir152 at 64 pixels \(--as target:ir152@celeba"),
    "judge given as target": (
        "facenet112", "target:facenet64@celeba", r"the judge FaceNet at 112 pixels \(--as judge:facenet112"
    ),
    "target given as judge": (
        "facenet64", "judge:facenet112@celeba", r"facenet64 at 64 pixels \(--as target:facenet64"
    ),
    "backbone given as target": (backbone("ir50"), "target:facenet64@celeba", r"--set train.init=ir50@ms1m"),
    "target given as backbone": ("facenet64", "backbone:ir50@ms1m", r"it is facenet64 at 64 pixels"),
    "another backbone": (backbone("ir152"), "backbone:ir50@ms1m", r"a face.evoLVe backbone \(ir152\)"),
    "torchvision's vgg16_bn as target": (
        backbone("vgg16_bn"), "target:vgg16@celeba", r"torchvision's vgg16_bn \(--as backbone:vgg16_bn@imagenet"
    ),
    "softmax inside fc_layer": (softmax_facenet(), "target:facenet64@celeba", r"older FaceNet of GMI.*softmax"),
    "unused output layer 512*14*14": (
        facenet_with_unused_layer(), "target:facenet64@celeba", r"output layer \(512\*14\*14\) that nothing uses"
    ),
    "MID as plain VGG16": ("vgg16_mid", "target:vgg16@celeba", r"VGG16 of MID.*--as target:vgg16_mid@celeba"),
    "plain VGG16 as MID": ("vgg16", "target:vgg16_mid@celeba", r"it is VGG16 \(--as target:vgg16@celeba"),
    "BiDO as MID": (bido(state("vgg16")), "target:vgg16_mid@celeba", r"the VGG16 of BiDO"),
    "generator as target": (gan("gmi")[0], "target:vgg16@celeba", r"the generator of GMI or KEDMI"),
    "critic as target": (gan("kedmi")[1], "target:vgg16@celeba", r"the critic of KEDMI"),
    "GMI's critic as target": (gan("gmi")[1], "target:ir152@celeba", r"the critic of GMI"),
    "a ResNet as target": (
        {"conv1.weight": torch.zeros(3), "layer1.0.conv1.weight": torch.zeros(3)}, "target:ir152@celeba",
        r"a torchvision ResNet"
    ),
    "something else": ({"a": torch.zeros(3)}, "target:vgg16@celeba", r"likely cause: another architecture"),
    "prefix in part": (
        {**state("vgg16"), "module.bn.weight": torch.zeros(3)}, "target:vgg16@celeba", r"DataParallel, but only in part"
    ),
    "width in part": (
        {**state("vgg16"), "feature.0.weight": torch.zeros(64, 3, 3, 3)}, "target:vgg16@celeba",
        r"1 of another shape \(feature.0.weight: expected \(8, 3, 3, 3\), got \(64, 3, 3, 3\)\).*another width"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_a_misfit_says_what_the_file_is(home: Path, tmp_path: Path, name: str) -> None:
    given, wanted, cause = MISFITS[name]
    weights = state(given) if isinstance(given, str) else given
    fails(save(tmp_path / "a.tar", weights), wanted, cause)
    assert not home.exists()


def test_the_wrong_class_count_is_refused(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tar", state("vgg16", classes=7))
    with pytest.raises(MibenchError, match="these weights have 7 classes, synthfaces has 300"):
        bring("target:vgg16@synthfaces+x", path)
    assert not home.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["fc_layer.weight"].fill_(float("nan")), "fc_layer.weight is not finite"),
        (lambda w: w["bn.running_var"].sub_(9), "bn.running_var has negative variances"),
        (lambda w: w.update({"fc_layer.bias": torch.zeros(CLASSES, dtype=torch.complex64)}), "complex numbers"),
    ],
)
def test_numbers_that_no_training_ends_with_are_refused(home: Path, tmp_path: Path, change: Any, message: str) -> None:
    weights = state("vgg16")
    change(weights)
    with pytest.raises(MibenchError, match=message):
        bring("target:vgg16@celeba", save(tmp_path / "a.tar", weights))
    assert not home.exists()


@pytest.mark.parametrize(
    ("key", "shape"),
    [("fc_layer.weight", (2**19, 1)), ("feature.40.weight", (2**19, 1, 1, 1)), ("bn.weight", (2**19,))],
)
def test_lengths_in_a_file_build_no_network_that_fills_the_memory(
    home: Path, tmp_path: Path, key: str, shape: tuple[int, ...]
) -> None:
    weights = {**state("vgg16"), key: torch.zeros(shape)}
    fails(save(tmp_path / "a.tar", weights), "target:vgg16@celeba", "of another shape|missing")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("ir152@celeba", "expected KIND:ARCHITECTURE@DATASET"),
        ("target:ir152", "say what it was trained on, such as target:ir152@celeba"),
        ("target:ir152@", "expected KIND:ARCHITECTURE@DATASET"),
        ("target:ir152@celeba+", "a tag becomes part of file names"),
        ("target:ir152@celeba+../../x", "a tag becomes part of file names"),
        ("target:ir152@celeba+a/b", "a tag becomes part of file names"),
        ("targt:ir152@celeba", "unknown kind of network 'targt'; did you mean 'target'"),
        ("target:ir125@celeba", "unknown target 'ir125'; did you mean 'ir152'"),
        ("target:facenet112@celeba", "'facenet112' is a judge, no target; --as judge:facenet112@celeba"),
        ("target:ir152@celebb", "unknown dataset 'celebb'; did you mean 'celeba'"),
        ("regressor:identity@synthfaces", "nothing here knows the released formats of the regressor 'identity'"),
    ],
)
def test_names_that_cannot_be(home: Path, tmp_path: Path, wanted: str, message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        bring(wanted, save(tmp_path / "a.tar", {"a": torch.zeros(1)}))
    assert not home.exists()


def test_an_importer_that_cannot_explain_still_gives_a_cause(tmp_path: Path) -> None:
    from mibench.weights.importing.network_loading import fitted

    def importer(architecture: str, files: Any, settings: Any) -> TrainedWeights:
        raise NotImplementedError

    weights = {**state("vgg16"), "more": torch.zeros(1)}
    trained = dataclasses.replace(import_classifier("vgg16", [contents(state("vgg16"))], {}), weights=weights)
    with pytest.raises(MisfitError, match="likely cause: another architecture"):
        fitted(parse("target:vgg16@celeba"), trained, importer, [contents(weights)])
