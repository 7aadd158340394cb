"""Tiny defended trainings: seconds on a CPU, real recipes and networks."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mibench.api import Defence, TrainedWeights, TrainingContext
from mibench.data.split import IdentitySplit, Images, to_uint8
from mibench.targets.training.recipes import TrainTarget

CLASSES = 6
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "defence_vectors.json").read_text())
TINY: dict[str, Any] = {"width": 1 / 16, "size": 32, "epochs": 2, "batch_size": 12, "learning_rate": 0.05}


class Patterns(IdentitySplit):
    """Each class is a coarse pattern of colours; an image adds noise. 12 training images a class, 4 for tests."""

    name = "patterns"
    digest = "patterns-1"
    num_classes = CLASSES

    def private(self, part, size, labels=None):
        patterns = torch.rand(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        per_class, seed = (12, 1) if part == "train" else (4, 2)
        classes = torch.arange(CLASSES).repeat_interleave(per_class)
        images = torch.nn.functional.interpolate(patterns, (size, size))[classes]
        images = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return Images(to_uint8(images), classes, tuple(f"private-{label}" for label in classes.tolist()))

    def public(self, size, count=None):
        raise AssertionError("a target's recipe has no use for public images")


class Memory:
    """A checkpoint that goes through bytes, and can stop a training at its n-th save."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.content: bytes | None = None
        self.stop_at, self.saves = stop_at, 0

    def load(self) -> dict[str, Any] | None:
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.content = buffer.getvalue()
        self.saves += 1
        if self.saves == self.stop_at:
            raise KeyboardInterrupt


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
