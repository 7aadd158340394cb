"""What the referee hands to a recipe: data, and the weights that it starts from or is made against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mibench.api import CardName, PriorTrainingData, Recipe
from mibench.data.files import FileSplit
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.weights.cards import CardFile
from mibench.weights.cards import find as find_card
from mibench.weights.load import build_victim
from mibench.weights.same_data import check_same_data

NEEDS = ("split", "public", "public+identities", "public+victim")


def image_count(recipe: Recipe, dataset: IdentitySplit) -> int | None:
    """How many images a recipe will train on; None where only opening them would tell."""
    if recipe.needs != "split":
        return dataset.public_count()
    return len(dataset.rows("train")) if isinstance(dataset, FileSplit) else None


def target_of(
    target: str | None, kind: str, architecture: str, recipe: Recipe, dataset: IdentitySplit
) -> CardFile | None:
    """The card of the classifier ``target`` that a prior is made against; None for recipes that want none."""
    if recipe.needs != "public+victim":
        if target:
            raise MibenchError(f"{kind} {architecture!r} is made against no target", cure="drop --target")
        return None
    if not target:
        raise MibenchError(
            f"the {kind} {architecture!r} is made against one target", cure="name it, such as --target CARD"
        )
    file = find_card("target", target, dataset.name)
    check_same_data("target", file.card(), dataset)
    return file


def backbone_of(recipe: Recipe, dataset: IdentitySplit) -> CardFile | None:
    """The card of the weights that a recipe starts from; None for fresh ones.

    Raises:
        MibenchError: there are none, or they come from another version of the data set.
    """
    name = recipe.backbone
    if name is None:
        return None
    if "@" not in name:
        raise MibenchError(f"train.init={name}", cure=f"name the whole card, such as {name}@ms1m")
    file = find_card("backbone", name, CardName.parse(name).dataset)
    check_same_data("backbone", file.card(), dataset)
    return file


def data_for(recipe: Recipe, dataset: IdentitySplit, target: CardFile | None, device: torch.device) -> Any:
    """The whole split for the defender and the referee; public pixels, and at most the victim, for the adversary."""
    if recipe.needs == "split":
        return dataset
    if recipe.needs == "public+identities":
        return lambda size: dataset.public(size)

    def public(size: int) -> Tensor:
        return dataset.public(size).pixels

    if recipe.needs == "public":
        return public
    if recipe.needs == "public+victim" and target is not None:
        return PriorTrainingData(public, build_victim(target, recipe.access, device))
    raise MibenchError(f"recipe {type(recipe).__name__} wants {recipe.needs!r}; known: {', '.join(NEEDS)}")
