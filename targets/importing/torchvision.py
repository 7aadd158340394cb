"""Importers of the 224-pixel family: PPA's training output, torchvision's own files, timm's.

The referee has read the file and taken wrapper prefixes off; what is left are torchvision's keys, in the spelling of
one of its versions. Nothing here needs the data: classes, width and (ViT) image size are read off the shapes.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mibench.api import ImageSpec, MibenchError, TrainedWeights, WeightsContents, suggest
from mibench.targets import CATALOGUE
from mibench.targets.networks.narrowing import SIXTEENTHS

SPELLINGS = (  # of older versions of torchvision, whose files are still the ones that are downloaded
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(mlp)\.linear_2\."), r"\1.3."),
)
POSITIONS = "encoder.pos_embedding"  # ViT: (1, patches + 1, D)
PATCH = 16
AUXILIARY = "AuxLogits."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``--set import.NAME=VALUE``.

    Attributes:
        size: side of the images in pixels; None: read off the weights (ViT), else the published one.
        mean, std: the normalisation the weights were trained behind, one number or one for each channel.
        transform_input: Inception-v3: see :class:`~mibench.targets.judges.inception_v3.Inception`.
        model: timm's name of the network.
    """

    size: int | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    transform_input: bool = False
    model: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any], allowed: Sequence[str]) -> Settings:
        """Check names, types and ranges."""
        for name in given:
            if name not in allowed:
                raise MibenchError(
                    f"unknown setting 'import.{name}'{suggest(name, allowed)} (known: {', '.join(allowed)})"
                )
        settings = dict(given)
        for name in ("mean", "std"):
            if name in settings:
                value = settings[name]
                settings[name] = tuple(value) if isinstance(value, list | tuple) else (value,)
                numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in settings[name])
                if len(settings[name]) not in (1, 3) or not numbers or not all(map(math.isfinite, settings[name])):
                    raise MibenchError(f"import.{name} takes one number or three, got {value!r}")
        for name, kind in (("size", int), ("transform_input", bool), ("model", str)):
            if name in settings and type(settings[name]) is not kind:
                raise MibenchError(f"import.{name} takes {_WORDS[kind]}, got {settings[name]!r}")
        if min(settings.get("std", (1.0,))) <= 0:
            raise MibenchError(f"import.std must be positive, got {given['std']!r}")
        return cls(**settings)

    def image(self, size: int) -> ImageSpec:
        """The images that the network takes; one number stands for three channels."""
        mean, std = (tuple(map(float, v * 3 if len(v) == 1 else v)) for v in (self.mean, self.std))
        return ImageSpec(size=size, mean=mean, std=std)


_WORDS = {int: "a whole number", bool: "true or false", str: "a name"}
SETTINGS = tuple(field.name for field in fields(Settings))


def import_target(
    architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> TrainedWeights:
    """Importer of torchvision's classifiers: a target as PPA trains it."""
    return _classifier("target", architecture, files, Settings.of(settings, ("size", "mean", "std")))


def import_inception(
    architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> TrainedWeights:
    """Importer of the Inception-v3 judge.

    Its auxiliary classifier is left out: it serves training only, and PPA leaves it at ImageNet's 1,000 classes
    whatever the data set has.
    """
    chosen = Settings.of(settings, ("size", "mean", "std", "transform_input"))
    return _classifier("judge", architecture, files, chosen, without=AUXILIARY, auxiliary=False)


def import_backbone(
    architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> TrainedWeights:
    """Importer of weights that a training starts from (``train.init``): torchvision's ImageNet files, whole."""
    return _classifier("backbone", architecture, files, Settings.of(settings, ("size", "mean", "std")))


def import_timm(architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]) -> TrainedWeights:
    """Importer of timm's classifiers; ``import.model`` names the network."""
    chosen = Settings.of(settings, ("model", "size", "mean", "std"))
    if not chosen.model:
        raise MibenchError("which of timm's models? --set import.model=NAME, vit_small_patch16_224 say")
    tensors = dict(_only(files).tensors)
    build = _architecture("target", architecture)
    size = chosen.size or 224
    with torch.device("meta"):
        skeleton = build(10, model=chosen.model, size=size)
    classes = _rows(tensors, _final_of(skeleton), chosen.model)
    return TrainedWeights(
        architecture=architecture,
        arguments={"model": chosen.model, "size": size},
        image=chosen.image(size),
        weights=tensors,
        classes=classes,
    )


def _classifier(
    kind: str,
    architecture: str,
    files: Sequence[WeightsContents],
    settings: Settings,
    *,
    without: str | None = None,
    **fixed: Any,
) -> TrainedWeights:
    """Weights of a torchvision network in today's spelling, and the arguments that build it."""
    given = {_spelt(key): value for key, value in _only(files).tensors.items()}
    tensors = {key: value for key, value in given.items() if without is None or not key.startswith(without)}
    build = _architecture(kind, architecture)
    size = _size(architecture, tensors, settings.size)
    options = {**fixed, **({"transform_input": True} if settings.transform_input else {})}
    with torch.device("meta"):
        skeleton = build(10, **options) if size is None else build(10, size=size, **options)
    final = _final_of(skeleton)
    classes = _rows(tensors, final, architecture)
    published, actual = skeleton.get_submodule(final).in_features, tensors[f"{final}.weight"].shape[1]
    width = round(SIXTEENTHS * actual / int(published)) / SIXTEENTHS
    size = size or (299 if architecture == "inception_v3" else 224)
    notes = []
    counters = [key for key in skeleton.state_dict() if key.endswith("num_batches_tracked") and key not in tensors]
    if counters and not any(key.endswith("num_batches_tracked") for key in tensors):
        tensors |= {key: torch.zeros((), dtype=torch.int64) for key in counters}
        notes.append("saved by a torch that did not count batches; the norms' counters are 0, which nothing reads")
    if len(tensors) < len(given) and without is not None:
        notes.append(f"without {without.rstrip('.')}, which serves training only")
    return TrainedWeights(
        architecture=architecture,
        arguments={"width": width, "size": size, **options},
        image=settings.image(size),
        weights=tensors,
        classes=classes,
        notes=tuple(notes),
    )


def _only(files: Sequence[WeightsContents]) -> WeightsContents:
    if len(files) != 1:
        raise MibenchError(f"a classifier is one file, got {len(files)}: {', '.join(f.file for f in files)}")
    return files[0]


def _spelt(key: str) -> str:
    for pattern, replacement in SPELLINGS:
        key = pattern.sub(replacement, key)
    return key


def _architecture(kind: str, name: str) -> Any:
    module, _, attribute = CATALOGUE[kind][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _final_of(network: nn.Module) -> str:
    from mibench.targets.networks.torchvision_networks import Head

    name_of_head: str = next(name for name, module in network.named_modules() if isinstance(module, Head))
    return name_of_head


def _rows(tensors: Mapping[str, Tensor], final: str, architecture: str) -> int:
    weight = tensors.get(f"{final}.weight")
    if weight is None or weight.ndim != 2:
        last = next(reversed(list(tensors)), "none")
        raise MibenchError(
            f"this is no {architecture}: its final layer {final}.weight is missing (the last key is {last})",
            cure="name the architecture that was trained with --as",
        )
    return int(weight.shape[0])


def _size(architecture: str, tensors: Mapping[str, Tensor], requested: int | None) -> int | None:
    """The image size that was said or that the positions of a ViT tell; None: the architecture's own."""
    positions = tensors.get(POSITIONS)
    if positions is None or positions.ndim != 3:
        return requested
    size = PATCH * math.isqrt(max(positions.shape[1] - 1, 0))
    if requested is not None and requested != size:
        raise MibenchError(f"{architecture} has positions for images of {size} pixels, import.size says {requested}")
    return size
