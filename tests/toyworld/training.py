"""Recipes of the toy world: as resumable as real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import ImageSpec, MibenchError, PriorTrainingData, Recipe, TrainedWeights, TrainingContext

from .data import ToyFaces
from .networks import classifier_weights


@dataclass(frozen=True, kw_only=True)
class TrainToy(Recipe):
    """Counts its epochs and takes the closed form in the end."""

    kind: ClassVar[str] = "target"

    architecture: str = "toynet"
    epochs: int = 3
    stop_after: int = 0  # pretends to be interrupted after so many epochs

    def run(self, data: ToyFaces, workshop: TrainingContext) -> TrainedWeights:
        state = workshop.checkpoint.load() or {"epoch": 0, "trace": torch.zeros(0)}
        for epoch in range(state["epoch"], self.epochs):
            state = {"epoch": epoch + 1, "trace": torch.cat([state["trace"], torch.tensor([float(epoch)])])}
            workshop.checkpoint.save(state)
            workshop.progress(epoch + 1, self.epochs, "epoch")
            if self.stop_after == epoch + 1:
                raise KeyboardInterrupt
        weights = {name: tensor.half() for name, tensor in classifier_weights(data).items()}
        return TrainedWeights(
            architecture=self.architecture,
            arguments={"width": 1.0},
            image=ImageSpec(size=8),
            weights=weights,
            classes=data.num_classes,
            measured={"test_accuracy": 1.0, "epochs": len(state["trace"])},
        )


@dataclass(frozen=True, kw_only=True)
class TrainToyPrior(Recipe):
    """Sees public pixels only."""

    kind: ClassVar[str] = "prior"
    needs: ClassVar[str] = "public"

    def run(self, data: Callable[[int], Tensor], workshop: TrainingContext) -> TrainedWeights:
        pixels = data(8)
        if pixels.dtype != torch.uint8:
            raise MibenchError("expected uint8 pixels")
        return TrainedWeights(
            architecture="toygan", arguments={}, image=ImageSpec(size=8), weights={"scale": pixels.float().std() / 64}
        )


@dataclass(frozen=True, kw_only=True)
class TrainToyAimed(Recipe):
    """Asks the target about public images, as a prior that is made against it does."""

    kind: ClassVar[str] = "prior"
    needs: ClassVar[str] = "public+victim"

    def run(self, data: PriorTrainingData, workshop: TrainingContext) -> TrainedWeights:
        images = data.public(8).float() / 255
        scores = data.victim.scores(images)
        return TrainedWeights(
            architecture="toyaimed",
            arguments={},
            image=ImageSpec(size=8),
            weights={"scale": 4 * scores.sum() / len(scores)},
            measured={"queries_forward": data.victim.queries.forward},
        )
