"""Tiny defended trainings: seconds on a CPU, real recipes and networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from powercut import Memory
from tiny_splits import TinySplit
from torch import Tensor

from mibench.api import Defence, TrainedWeights, TrainingContext
from mibench.targets.training.recipes import TrainTarget

CLASSES = 6
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "defence_vectors.json").read_text())
TINY: dict[str, Any] = {"width": 1 / 16, "size": 32, "epochs": 2, "batch_size": 12, "learning_rate": 0.05}


class Patterns(TinySplit):
    """Another one: more classes, fewer images of each, less noise."""

    name = "patterns"
    digest = "patterns-1"
    num_classes = CLASSES
    train_images, test_images = 12, 4
    noise = 0.1


def train_tiny(*defences: Defence, checkpoint: Memory | None = None, log: Any = None, **changes: Any) -> TrainedWeights:
    """VGG16 (unless ``architecture`` says otherwise) on :class:`Patterns` with these defences, seed 0.

    ``initial``: tensors of the public backbone that the defences start from.
    """
    initial = changes.pop("initial", {})
    precision = changes.pop("precision", "float32")
    recipe = TrainTarget(**{**TINY, **changes})
    public = {defence.name: initial for defence in defences}
    context = TrainingContext(
        device=torch.device("cpu"),
        checkpoint=checkpoint or Memory(),
        defences=defences,
        public=public,
        precision=precision,
        **({"log": log} if log else {}),
    )
    return recipe.run(Patterns(), context)


def same_weights(one: TrainedWeights, other: TrainedWeights) -> bool:
    """Whether two trainings ended with the same bits."""
    return one.weights.keys() == other.weights.keys() and all(
        torch.equal(value, other.weights[key]) for key, value in one.weights.items()
    )


def sines(scale: float, rate: float, shape: Sequence[int], shift: float = 0.0, offset: float = 0.0) -> Tensor:
    """``offset + scale sin(rate i + shift)`` in float64, i row-major from 0: the inputs of the reference vectors."""
    count = int(torch.Size(shape).numel())
    return (offset + scale * torch.sin(rate * torch.arange(count, dtype=torch.float64) + shift)).view(*shape)
