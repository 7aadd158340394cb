"""Checkpoints as the field releases them, from random weights of small networks."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mibench.api import WeightsContents
from mibench.attacks.priors.dcgan.networks import Critic, Generator, MinibatchDiscriminator
from mibench.targets.judges.facenet112 import FaceNet112
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.networks.vgg16_mid import VGG16MID
from mibench.targets.training.backbones import VGG16BN, IR50Backbone, IR152Backbone
from mibench.weights import cards
from mibench.weights.importing.checkpoint_card import Import
from mibench.weights.importing.importer import Imported, import_weights
from mibench.weights.load import load_weights

WIDTH = 0.0625
CLASSES = 5
DATA = Path(__file__).parent / "data"
NETWORKS: dict[str, Any] = {
    "vgg16": VGG16,
    "vgg16_mid": VGG16MID,
    "ir152": IR152,
    "facenet64": FaceNet64,
    "facenet112": FaceNet112,
}
BACKBONES: dict[str, Any] = {"ir50": IR50Backbone, "ir152": IR152Backbone, "vgg16_bn": VGG16BN}
PUBLISHED = {"VGG16": "vgg16", "IR152": "ir152", "FaceNet64": "facenet64", "FaceNet": "facenet112"}


def state(name: str, *, classes: int = CLASSES, seed: int = 0, **arguments: Any) -> OrderedDict[str, Tensor]:
    """Weights of a small classifier, running statistics included, drawn by ``seed``."""
    torch.manual_seed(seed)
    network = NETWORKS[name](classes, width=WIDTH, **arguments)
    return jiggled(network)


def backbone(name: str) -> OrderedDict[str, Tensor]:
    """Weights of a small backbone."""
    torch.manual_seed(7)
    return jiggled(BACKBONES[name](width=WIDTH))


def gan(kind: str, classes: int = CLASSES) -> tuple[OrderedDict[str, Tensor], OrderedDict[str, Tensor]]:
    """Weights of a small generator and its critic."""
    torch.manual_seed(3)
    critic = Critic(width=WIDTH) if kind == "gmi" else MinibatchDiscriminator(num_classes=classes, width=WIDTH)
    return jiggled(Generator(z_dim=20, width=WIDTH)), jiggled(critic)


def jiggled(network: nn.Module) -> OrderedDict[str, Tensor]:
    """A network's state with running statistics that are not those of a fresh one."""
    weights = OrderedDict(network.state_dict())
    for key, tensor in weights.items():
        if key.endswith(("running_mean", "running_var")):
            weights[key] = tensor + 0.1 * torch.rand_like(tensor)
    return weights


def save(
    path: Path, weights: Mapping[str, Tensor], *, container: str = "state_dict", prefix: str = "module.",
    legacy: bool = True, **more: Any,
) -> Path:  # fmt: skip
    """Write a checkpoint. The defaults are those of the released classifiers: old torch, DataParallel, state_dict."""
    named = OrderedDict({prefix + key: tensor for key, tensor in weights.items()})
    content = {**named, **more} if container == "bare" else {container: named, **more}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def bido(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VGG16's weights under the names of BiDO: five blocks, each ending with its pool."""
    ends = (7, 14, 24, 34, 44)  # feature.k of the first module behind each block
    renamed = {}
    for key, tensor in weights.items():
        if key.startswith("feature."):
            _, number, rest = key.split(".", 2)
            block = next(i for i, end in enumerate(ends) if int(number) < end)
            key = f"layer{block + 1}.{int(number) - (0, *ends)[block]}.{rest}"
        renamed[key] = tensor
    return renamed


def published(name: str) -> dict[str, Tensor]:
    """Tensors without storage under the published keys at the published shapes."""
    keys = json.loads((DATA / f"state_dict_{name}.json").read_text())["keys"]
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


SMALL_WORLD = {"dataset": {"identities": CLASSES, "train_images": 1, "test_images": 14, "public_identities": 1}}


def contents(tensors: Any, file: str = "a.tar") -> WeightsContents:
    return WeightsContents(file=file, sha256="0" * 64, container="state_dict", tensors=tensors)


def bring(wanted: str, *paths: Path, **fields: Any) -> Imported:
    return import_weights(Import(files=paths, wanted=wanted, **fields), device="cpu")


def stored(done: Imported) -> dict[str, Tensor]:
    name = done.card.name
    return load_weights(cards.all_cards()[name])
