"""Plugs the toy world in and writes its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from mibench import registry
from mibench.api import Card, CardName, ImageSpec, WeightsFile
from mibench.data.datasets.folder import Folder
from mibench.weights.cards import write_card
from toyworld.data import ToyFaces
from toyworld.networks import classifier_weights, prior_weights, regressor_weights

POINTS = (
    EntryPoint("harness", "mibench.catalogue:CATALOGUE", registry.GROUP),
    EntryPoint("toy", "toyworld:CATALOGUE", registry.GROUP),
)


def entry_points(*, group: str) -> tuple[EntryPoint, ...]:
    """The referee and the toy world, nothing else: stands in for ``importlib.metadata.entry_points``."""
    return POINTS if group == registry.GROUP else ()


def write_network(
    folder: Path,
    name: str,
    kind: str,
    weights: Mapping[str, Tensor],
    data: ToyFaces | Folder,
    *,
    size: int = 8,
    **fields: Any,
) -> Card:
    """Weights and card below ``folder``."""
    content = save(dict(weights))
    stem = CardName.parse(name).stem
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    (folder / "weights" / f"{stem}.safetensors").write_bytes(content)
    card = Card(
        name=name,
        kind=kind,
        architecture=name.partition("@")[0],
        dataset=data.name,
        image=ImageSpec(size=size),
        weights=WeightsFile(f"{stem}.safetensors", hashlib.sha256(content).hexdigest(), len(content)),
        dataset_digest=data.digest,
        **fields,
    )
    write_card(card, folder / "cards")
    return card


def write_world(folder: Path, data: ToyFaces | None = None) -> None:
    """Every network of the toy world below ``folder`` (a ``$MIBENCH_HOME``)."""
    data = data or ToyFaces()
    classes = {"classes": data.num_classes, "measured": {"test_accuracy": 1.0}}
    write_network(folder, "toynet@toyfaces", "target", classifier_weights(data), data, **classes)
    write_network(folder, "toyjudge@toyfaces", "judge", classifier_weights(data), data, size=12, **classes)
    regressor = {"arguments": {"identity_dim": 4}, "measured": {"rmse_per_coordinate": [0.1] * 4}}
    write_network(folder, "toyregressor@toyfaces", "regressor", regressor_weights(), data, **regressor)
    write_network(folder, "toygan@toyfaces", "prior", prior_weights(), data)
