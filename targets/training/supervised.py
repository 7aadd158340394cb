"""The training loop that all recipes of this party share: epochs, checkpoints, exact resume.

Every random number comes from a stream named by its purpose and its epoch or step. So a training that was interrupted
and continued ends with the same bytes as one that was not (CPU, float32, same number of threads).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mibench.api import ImageSpec, MibenchError, Recipe, TrainedWeights, TrainingContext
from mibench.rng import Streams, derive
from mibench.targets.networks.ir import Backbone

from .augment import AUGMENTATIONS, check_augmentation, training_batch
from .optimisation import build_optimiser, learning_rate_at, optimiser_state, restore_optimiser

REPORT_SECONDS = 2.0  # between two updates of the progress bar; each one waits for the device once
SELECTIONS = ("last", "best_on_test")
STORAGES = {"float32": torch.float32, "float16": torch.float16}

Weights = dict[str, Tensor]
Loss = Callable[[Any, Tensor, int], Mapping[str, Tensor]]
Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class SupervisedRecipe(Recipe):
    """Settings of a supervised training. The defaults are the published recipe of the 64-pixel protocol.

    That recipe: SGD 0.01, momentum 0.9, weight decay 1e-4, batches of 64, horizontal flips, no schedule (it is
    commented out in the released code), and the epoch with the best *test* accuracy. Only the last is not followed:
    ``select="best_on_test"`` is test-set selection, so its accuracy is optimistic, and has to be asked for.
    """

    cost_only: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds"})  # settings that change no result
    augmentations: ClassVar[tuple[str, ...]] = AUGMENTATIONS

    architecture: str
    width: float = 1.0
    size: int = 64
    dropout: float | None = None  # None: the architecture's own, 0.5 (IR networks)
    epochs: int = 50
    optimiser: str = "sgd"  # sgd | adamw | adam
    learning_rate: float = 0.01
    momentum: float = 0.9  # adamw, adam: the first beta
    weight_decay: float = 1e-4
    schedule: str = "none"  # none | cosine
    warmup_epochs: float = 0.5  # cosine only; ours: large rates need it
    batch_size: int = 64
    flip: bool = True
    augment: str = "none"  # none | shift | light
    select: str = "last"  # last | best_on_test
    storage: str = "float32"  # float32 | float16: of the weights handed back; they are measured as stored
    evaluate_every: int = 1  # epochs; the last one is always evaluated
    checkpoint_seconds: float = 300.0  # besides the end of every epoch

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        check_augmentation(self.augment, self.augmentations)
        self.rate(0, 1)
        for name, value, known in (("select", self.select, SELECTIONS), ("storage", self.storage, STORAGES)):
            if value not in known:
                raise MibenchError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
        for name, least in (("epochs", 1), ("batch_size", 2), ("evaluate_every", 1)):
            if getattr(self, name) < least:
                raise MibenchError(f"{name} must be {least} or more, got {getattr(self, name)}")
        for name in ("learning_rate", "width"):
            if not 0 < getattr(self, name) < math.inf:
                raise MibenchError(f"{name} must be a positive number, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise MibenchError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise MibenchError(f"weight_decay must be finite and not negative, got {self.weight_decay}")
        if self.size < 1:
            raise MibenchError(f"size must be 1 pixel or more, got {self.size}")

    @property
    def image(self) -> ImageSpec:
        """The images that the network takes: their size, and how they are normalised before it."""
        return ImageSpec(size=self.size)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that build the architecture, besides the number of its outputs."""
        return {"width": self.width, "size": self.size}

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over the whole training."""
        return learning_rate_at(
            step,
            steps_per_epoch * self.epochs,
            peak=self.learning_rate,
            schedule=self.schedule,
            warmup=round(self.warmup_epochs * steps_per_epoch),
        )

    def batch(self, store: Tensor, indices: Tensor, generator: torch.Generator, device: torch.device) -> Tensor:
        """Augmented images ``(B, 3, S, S)`` in [0, 1] on the device, of a store ``(N, S, S, 3)``."""
        return training_batch(store, indices, generator, flip=self.flip, augmentation=self.augment, device=device)

    @abstractmethod
    def run(self, data: Any, workshop: TrainingContext) -> TrainedWeights:
        """Train to the end, from the checkpoint when there is one."""


@dataclass(frozen=True)
class TrainingSummary:
    """What :func:`fit` reports; the chosen weights are in the network. ``epoch`` counts from 1."""

    epoch: int
    selection: str


def fit(
    network: nn.Module,
    store: Tensor,
    goals: Tensor,
    *,
    recipe: SupervisedRecipe,
    workshop: TrainingContext,
    streams: Streams,
    data_digest: str,
    loss: Loss,
    evaluate: Evaluate,
) -> TrainingSummary:
    """Train ``network`` in place.

    Args:
        network: moved to the device here.
        store: uint8 ``(N, S, S, 3)``, on the device or (too large for it) where it was.
        goals: ``(N, ...)`` on the device.
        streams: randomness of this training.
        data_digest: what a checkpoint must have been trained on to be continued.
        loss: network output, goals of a batch and the epoch (from 0) to named scalars, ``loss`` (to minimise, a mean)
            among them.
        evaluate: the network to named numbers; the first one decides ``select="best_on_test"`` (higher is better).
    """
    return _Training(network, store, goals, recipe, workshop, streams, data_digest).to_the_end(loss, evaluate)


class _Training:
    def __init__(
        self,
        network: nn.Module,
        store: Tensor,
        goals: Tensor,
        recipe: SupervisedRecipe,
        workshop: TrainingContext,
        streams: Streams,
        data_digest: str,
    ) -> None:
        if len(store) < 2:
            raise MibenchError(f"training needs 2 images or more, got {len(store)}")
        self.network, self.store, self.goals = network, store, goals
        self.recipe, self.workshop, self.streams = recipe, workshop, streams
        self.layout = preferred_layout(network, workshop)
        network.to(workshop.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.batch_size = min(recipe.batch_size, len(store))
        self.steps_per_epoch = len(store) // self.batch_size  # the rest of an epoch is dropped, as in the papers
        self.total = self.steps_per_epoch * recipe.epochs
        self.optimiser = build_optimiser(
            network,
            recipe.optimiser,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.fingerprint = self._fingerprint(data_digest)
        self.step = 0
        self.totals = torch.empty(0, device=workshop.device)  # sums over the steps of the running epoch
        self.best: dict[str, Any] = {}

    def to_the_end(self, loss: Loss, evaluate: Evaluate) -> TrainingSummary:
        devices = [self.workshop.device] if self.workshop.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._restore()
            for epoch in range(self.step // self.steps_per_epoch, self.recipe.epochs):
                self._epoch(epoch, loss, evaluate)
        if self.recipe.select == "best_on_test":
            self.network.load_state_dict(self.best["weights"])
            return TrainingSummary(int(self.best["epoch"]), f"test-set selection: best of {self.recipe.epochs} epochs")
        return TrainingSummary(self.recipe.epochs, "last epoch")

    def _epoch(self, epoch: int, loss: Loss, evaluate: Evaluate) -> None:
        self.network.train()
        order = torch.randperm(len(self.store), generator=self.streams.generator("order", epoch))
        reported = saved = time.monotonic()
        first = epoch * self.steps_per_epoch
        names: tuple[str, ...] = ()
        while self.step < first + self.steps_per_epoch:
            within = self.step - first
            indices = order[within * self.batch_size : (within + 1) * self.batch_size]
            values = self._take_step(indices, epoch, loss)
            names = tuple(values)
            batch = torch.stack([value.detach().float() for value in values.values()])
            self.totals = self.totals + batch if within else batch
            self.step += 1
            now = time.monotonic()
            if now - reported >= REPORT_SECONDS:
                self._report(epoch, names, within + 1)
                reported = time.monotonic()
            if now - saved >= self.recipe.checkpoint_seconds and within + 1 < self.steps_per_epoch:
                self._save()
                saved = time.monotonic()
        self._finish_epoch(epoch, names, evaluate)

    def _take_step(self, indices: Tensor, epoch: int, loss: Loss) -> Mapping[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.step, self.steps_per_epoch)
        generator = self.streams.generator("augment", self.step)
        images = self.recipe.batch(self.store, indices, generator, self.workshop.device)
        images = images.contiguous(memory_format=self.layout)
        torch.manual_seed(derive(self.streams.seed, *self.streams.names, "dropout", self.step))
        with autocast(self.workshop):
            output = self.network(images)
        values = loss(output, self.goals[indices.to(self.goals.device, non_blocking=True)], epoch)
        values["loss"].backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return values

    def _finish_epoch(self, epoch: int, names: tuple[str, ...], evaluate: Evaluate) -> None:
        record: dict[str, Any] = {"epoch": epoch + 1, "learning_rate": self.optimiser.param_groups[0]["lr"]}
        record |= self._report(epoch, names, self.steps_per_epoch) if names else {}
        last = epoch + 1 == self.recipe.epochs
        if last or (epoch + 1) % self.recipe.evaluate_every == 0:
            measured = evaluate(self.network)
            record |= measured
            score = next(iter(measured.values()))
            if self.recipe.select == "best_on_test" and score > self.best.get("score", -math.inf):
                self.best = {"score": float(score), "epoch": epoch + 1, "weights": copied_weights(self.network)}
        self.workshop.log(**record)
        self._save()

    def _report(self, epoch: int, names: tuple[str, ...], steps: int) -> dict[str, float]:
        means = dict(zip((f"train_{name}" for name in names), (self.totals / steps).tolist(), strict=True))
        if not math.isfinite(means["train_loss"]):
            raise MibenchError(
                f"the training diverged in epoch {epoch + 1} (loss {means['train_loss']}); lower learning_rate "
                f"(now {self.recipe.learning_rate}) or choose schedule 'cosine', and delete the checkpoint"
            )
        text = ", ".join(f"{name.removeprefix('train_')} {value:.3f}" for name, value in means.items())
        self.workshop.progress(self.step, self.total, f"epoch {epoch + 1}/{self.recipe.epochs}, {text}")
        return means

    def _save(self) -> None:
        state: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "network": copied_weights(self.network),
            "optimiser": {
                index: {name: value.clone() for name, value in entry.items()}
                for index, entry in optimiser_state(self.optimiser).items()
            },
            "totals": self.totals.clone(),
        }
        if self.best:
            state["best"] = self.best
        self.workshop.checkpoint.save(state)

    def _restore(self) -> None:
        state = self.workshop.checkpoint.load()
        if state is None:
            return
        if state.get("fingerprint") != self.fingerprint:
            raise MibenchError(
                "the checkpoint belongs to a training with other settings, data, seed or precision; "
                "use those again, or delete the checkpoint to start over"
            )
        self.network.load_state_dict(state["network"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self.step = int(state["step"])
        self.totals = state["totals"].to(self.workshop.device)
        self.best = state.get("best", {})

    def _fingerprint(self, data_digest: str) -> str:
        settings = {name: value for name, value in asdict(self.recipe).items() if name not in self.recipe.cost_only}
        streams = [self.streams.seed, *self.streams.names]
        parts = [type(self.recipe).__name__, settings, streams, self.workshop.precision, data_digest, len(self.store)]
        return json.dumps(parts, sort_keys=True)


def autocast(workshop: TrainingContext) -> contextlib.AbstractContextManager[Any]:
    """The workshop's precision as a context: bfloat16 autocast, or nothing for float32."""
    if workshop.precision == "float32":
        return contextlib.nullcontext()
    if workshop.precision != "bfloat16":
        raise MibenchError(f"unknown precision {workshop.precision!r}; choose one of float32, bfloat16")
    return torch.autocast(workshop.device.type, torch.bfloat16)


def preferred_layout(network: nn.Module, workshop: TrainingContext) -> torch.memory_format:
    """The faster memory layout for training: channels_last, except for IR networks in bfloat16 on a CPU.

    Those spend their time in norms over few channels, which torch does slowly in channels_last: at widths 0.125 and
    0.25 the plain layout was 7 to 18 % faster. In float32, and for VGG16, channels_last was up to 60 % faster.
    """
    plain = workshop.device.type == "cpu" and workshop.precision == "bfloat16"
    if plain and any(isinstance(module, Backbone) for module in network.modules()):
        return torch.contiguous_format
    return torch.channels_last


def copied_weights(network: nn.Module) -> Weights:
    """The network's state as contiguous copies that later steps leave alone."""
    return {
        key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in network.state_dict().items()
    }


def stored_weights(network: nn.Module, storage: str) -> Weights:
    """The state as it will be stored, on the CPU; the network itself is set to the rounded values.

    Raises:
        MibenchError: a weight is too large for ``storage``.
    """
    dtype = STORAGES[storage]
    weights = {
        key: (value.to(dtype) if value.is_floating_point() else value).cpu()
        for key, value in copied_weights(network).items()
    }
    for key, value in weights.items():
        if not value.isfinite().all():
            raise MibenchError(f"{key} is not finite in {storage}; store float32, or train again at a lower rate")
    network.load_state_dict(weights)  # copies into float32: the network now computes with what is stored
    return weights
