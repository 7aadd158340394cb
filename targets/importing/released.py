"""Importers: released weights of the 64-pixel protocol, its judge and its backbones, to what our networks take.

Our networks keep the published names, so most files need nothing but their arguments found out. Legend: D features, C
classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mibench.api import ImageSpec, MibenchError, TrainedWeights, WeightsContents

from .checkpoint_kinds import Kind, kind_of

PUBLISHED_CLASSES = 1000  # what a file without a classifier is compared with
PUBLISHED_CHANNELS = 512  # the last convolutions at width 1
MOST = 1 << 20  # classes, features: longer ones are made up
BIDO_STARTS = (0, 7, 14, 24, 34)  # feature.k of VGG16 where layer1 to layer5 of BiDO begin
BIDO_KEY = re.compile(r"layer([1-5])\.(\d+)\.(.+)")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

VGGS = ("vgg16", "vgg16_mid")
IRS = ("ir152", "facenet64", "facenet112")


class ClassifierImporter:
    """``target`` and ``judge``: VGG16 (also BiDO's and MID's), IR152, FaceNet64 and the judge FaceNet."""

    def __call__(
        self, architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
    ) -> TrainedWeights:
        """Arguments from shapes, keys renamed where a release names them otherwise."""
        if architecture not in (*VGGS, *IRS):
            known = ", ".join((*VGGS, *IRS))
            raise MibenchError(f"no importer knows a released format of {architecture!r} (known: {known})")
        refuse_settings(architecture, settings, ("sample",) if architecture == "vgg16_mid" else ())
        tensors, notes = counted(dict(one_file(architecture, files).tensors))
        if architecture in VGGS:
            tensors, arguments, more = _vgg(architecture, tensors, settings)
            notes += more
        elif architecture == "facenet112":
            arguments = _ir_arguments(tensors, "feature.output_layer.", 7)
        else:
            arguments = _ir_arguments(tensors, "output_layer.", 4)
        return TrainedWeights(
            architecture=architecture,
            arguments=arguments,
            image=ImageSpec(size=arguments["size"]),
            weights=tensors,
            classes=_length(tensors, "fc_layer.weight", 0, PUBLISHED_CLASSES),
            notes=(" ".join(notes),) if notes else (),
        )

    def explain(self, architecture: str, files: Sequence[WeightsContents]) -> str | None:
        """Why weights do not fit, from what they look like."""
        kind = kind_of(files[0].tensors)
        return None if kind is None or kind.name == architecture else explanation(kind)


class BackboneImporter:
    """``backbone``: face.evoLVe's MS1M networks and torchvision's vgg16_bn."""

    def __call__(
        self, architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
    ) -> TrainedWeights:
        """All weights of a face network, the convolutions of torchvision's."""
        if architecture not in ("ir50", "ir152", "vgg16_bn"):
            raise MibenchError(f"no importer knows a released format of the backbone {architecture!r}")
        refuse_settings(architecture, settings, ())
        given, notes = counted(dict(one_file(architecture, files).tensors))
        tensors = given
        if architecture == "vgg16_bn":
            tensors = {key: tensor for key, tensor in given.items() if not key.startswith("classifier.")}
            arguments: dict[str, Any] = {"width": _width(tensors, "features.40.weight"), "size": 224}
            image = ImageSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
            notes += ["torchvision's classifier was left out."] if len(tensors) < len(given) else []
        else:
            arguments = _ir_arguments(given, "output_layer.", 7)
            image = ImageSpec(size=arguments["size"], mean=HALF, std=HALF)
        return TrainedWeights(
            architecture=architecture,
            arguments=arguments,
            image=image,
            weights=tensors,
            notes=(" ".join(notes),) if notes else (),
        )

    def explain(self, architecture: str, files: Sequence[WeightsContents]) -> str | None:
        """Why weights do not fit, from what they look like."""
        kind = kind_of(files[0].tensors)
        return None if kind is None or kind.name == f"{architecture} backbone" else explanation(kind)


import_classifier = ClassifierImporter()
import_backbone = BackboneImporter()


def explanation(kind: Kind) -> str:
    """``it is the critic of GMI: give it with its generator``."""
    return f"it is {kind.text}" + (f" ({kind.cure})" if kind.cure else "")


def one_file(architecture: str, files: Sequence[WeightsContents]) -> WeightsContents:
    """The only file."""
    if len(files) != 1:
        raise MibenchError(f"{architecture} comes in one file, got {len(files)}: {', '.join(f.file for f in files)}")
    return files[0]


def from_bido(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BiDO's ``layer3.0.weight`` to VGG16's ``feature.14.weight``; other keys stay."""
    renamed = {}
    for key, tensor in tensors.items():
        if match := BIDO_KEY.fullmatch(key):
            key = f"feature.{BIDO_STARTS[int(match[1]) - 1] + int(match[2])}.{match[3]}"
        renamed[key] = tensor
    return renamed


def counted(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Add the batch counters that torch before 0.4.1 did not save (nothing in evaluation reads them), and say so."""
    norms = [key.removesuffix("running_var") for key in tensors if key.endswith(".running_var")]
    lacking = [key for norm in norms if (key := f"{norm}num_batches_tracked") not in tensors]
    if not lacking or len(lacking) < len(norms):  # some but not all: a damaged file, which strict loading refuses
        return tensors, []
    zero = torch.zeros((), dtype=torch.int64)
    return tensors | dict.fromkeys(lacking, zero), ["Counters of batches were not saved and are 0."]


def refuse_settings(architecture: str, settings: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuse a ``--set import.NAME`` that means nothing here."""
    for name in settings:
        if name not in known:
            options = ", ".join(known) or "none"
            raise MibenchError(f"unknown setting 'import.{name}' for {architecture} (known: {options})")


def _vgg(
    architecture: str, tensors: dict[str, Tensor], settings: Mapping[str, object]
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Weights, arguments and notes of a VGG16."""
    notes = []
    if architecture == "vgg16" and (kind := kind_of(tensors)) is not None and kind.name == "bido":
        tensors = from_bido(tensors)
        notes.append("Keys of BiDO (layer1 to layer5) were renamed; its hidden layers are not returned.")
    channels = _length(tensors, "feature.40.weight", 0, PUBLISHED_CHANNELS)
    flat = _length(tensors, "bn.weight" if architecture == "vgg16" else "st_layer.weight", -1, 4 * channels)
    arguments: dict[str, Any] = {"width": _width(tensors, "feature.40.weight"), "size": 32 * _root(flat, channels, 2)}
    if architecture == "vgg16_mid":
        sample = settings.get("sample", False)
        if not isinstance(sample, bool):
            raise MibenchError(f"import.sample is true or false, got {sample!r}")
        arguments["sample"] = sample
        notes.append("Its code is drawn in evaluation." if sample else "Evaluation takes the mean of its code.")
    return tensors, arguments, notes


def _ir_arguments(tensors: Mapping[str, Tensor], layer: str, side: int) -> dict[str, Any]:
    """Width and image size of an IR network from its output layer; the published ones where it has none."""
    channels = _length(tensors, f"{layer}0.weight", 0, PUBLISHED_CHANNELS)
    flat = _length(tensors, f"{layer}3.weight", -1, channels * side**2)
    return {"width": _width(tensors, f"{layer}0.weight"), "size": 16 * _root(flat, channels, side)}


def _width(tensors: Mapping[str, Tensor], last: str) -> float:
    """Width by the last layer's channels: there the rounding to multiples of 8 is finest."""
    return _length(tensors, last, 0, PUBLISHED_CHANNELS) / PUBLISHED_CHANNELS


def _length(tensors: Mapping[str, Tensor], key: str, dimension: int, default: int) -> int:
    """A length of a tensor; the default where there is none, or an absurd one: strict loading then tells the rest."""
    tensor = tensors.get(key)
    if tensor is None or tensor.ndim == 0 or not 0 < tensor.shape[dimension] <= MOST:
        return default
    return int(tensor.shape[dimension])


def _root(flat: int, channels: int, default: int) -> int:
    """The side of ``flat / channels`` positions; the default where that is no square."""
    side = round((flat / channels) ** 0.5)
    return side if side > 0 and side * side * channels == flat else default
