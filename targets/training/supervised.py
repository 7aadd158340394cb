"""The training loop that all recipes of this party share: epochs, checkpoints, exact resume.

Every random number comes from a stream named by its purpose and its epoch or step. So a training that was interrupted
and continued ends with the same bytes as one that was not (CPU, float32, same number of threads).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, ImageSpec, MibenchError, Recipe, TrainedWeights, TrainingContext
from mibench.api.training import TrainingState, autocast, check_storage, copied_weights, run_steps
from mibench.rng import Streams, derive
from mibench.targets.networks.ir import Backbone

from .augment import AUGMENTATIONS, check_augmentation, plain_batch, training_batch
from .defended import DefendedTraining
from .optimisation import build_optimiser, learning_rate_at

REPORT_SECONDS = 2.0  # between two updates of the progress bar; each one waits for the device once
SELECTIONS = ("last", "best_on_test")

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
    trains: ClassVar[str | None] = None  # kind of the architecture that is trained; None: the recipe's own

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
    storage: str = "float32"  # float32 | float16 | bfloat16: of the weights handed back; they are measured as stored
    evaluate_every: int = 1  # epochs; the last one is always evaluated
    checkpoint_seconds: float = 300.0  # besides the end of every epoch

    def check(self, images: int | None = None) -> None:
        """Raise where a setting makes no sense."""
        check_augmentation(self.augment, self.augmentations)
        self.rate(0, 1)
        check_storage(self.storage)
        if self.select not in SELECTIONS:
            raise MibenchError(f"unknown select {self.select!r}", cure=f"choose one of {', '.join(SELECTIONS)}")
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
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise MibenchError(f"dropout must be in [0, 1), got {self.dropout}")
        if images is not None and images < 2:
            raise MibenchError(f"training needs 2 images or more, got {images}")

    @property
    def steadier(self) -> str:
        """What helps a training that diverges."""
        also = "" if self.schedule == "cosine" else " or set train.schedule=cosine"
        return f"lower train.learning_rate (now {self.learning_rate:g}){also}"

    @property
    def image(self) -> ImageSpec:
        """The images that the network takes: their size, and how they are normalised before it."""
        return ImageSpec(size=self.size)

    def arguments(self) -> dict[str, object]:
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
    def run(self, data: Any, context: TrainingContext) -> TrainedWeights:
        """Train to the end, from the checkpoint when there is one."""


@dataclass(frozen=True)
class TrainingSummary:
    """What :func:`fit` reports; the chosen weights are in the network.

    Attributes:
        epoch: from 1.
        selection: in words.
        measured: facts that the defences of the training want on the card.
        artefacts: tensors of theirs for analysis.
    """

    epoch: int
    selection: str
    measured: Mapping[str, float | int | str] = field(default_factory=dict)
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)


def fit(
    network: nn.Module,
    store: Tensor,
    goals: Tensor,
    *,
    recipe: SupervisedRecipe,
    context: TrainingContext,
    streams: Streams,
    loss: Loss,
    evaluate: Evaluate,
    num_classes: int = 0,
    fresh_network: Callable[..., nn.Module] | None = None,
    public: Callable[[int | None], Tensor] | None = None,
) -> TrainingSummary:
    """Train ``network`` in place.

    Args:
        network: moved to the device here.
        store: uint8 ``(N, S, S, 3)``, on the device or (too large for it) where it was.
        goals: ``(N, ...)`` on the device.
        streams: randomness of this training.
        loss: network output, goals of a batch and the epoch (from 0) to named scalars, ``loss`` (to minimise, a mean)
            among them.
        evaluate: the network to named numbers; the first one decides ``select="best_on_test"`` (higher is better).
        num_classes, fresh_network, public: of a classifier, for its defences (:class:`~mibench.api.TrainingTask`).
    """
    training = _Training(
        network, store, goals, recipe, context, streams, loss, evaluate, num_classes, fresh_network, public
    )
    return training.to_the_end()


class _Training:
    """The state of one training, its step, and what it says about itself (a :class:`~mibench.api.training.Monitor`)."""

    def __init__(
        self,
        network: nn.Module,
        store: Tensor,
        goals: Tensor,
        recipe: SupervisedRecipe,
        context: TrainingContext,
        streams: Streams,
        loss: Loss,
        evaluate: Evaluate,
        num_classes: int,
        fresh_network: Callable[..., nn.Module] | None,
        public: Callable[[int | None], Tensor] | None,
    ) -> None:
        if len(store) < 2:
            raise MibenchError(f"training needs 2 images or more, got {len(store)}")
        self.network, self.store, self.goals = network, store, goals
        self.recipe, self.context, self.streams = recipe, context, streams
        self.loss, self.evaluate = loss, evaluate
        self.layout = preferred_layout(network, context)
        network.to(context.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.batch_size = min(recipe.batch_size, len(store))
        self.steps_per_epoch = len(store) // self.batch_size  # the rest of an epoch is dropped, as in the papers
        self.total = self.steps_per_epoch * recipe.epochs
        self.defended = DefendedTraining(  # before the optimiser, since a defence may freeze weights
            network,
            context,
            streams,
            goals,
            epochs=recipe.epochs,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.batch_size,
            num_classes=num_classes,
            size=recipe.size,
            images=lambda indices: plain_batch(store, indices, context.device),
            fresh_network=fresh_network,
            public=public,
        )
        optimiser = build_optimiser(
            network,
            recipe.optimiser,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.module, self.optimiser = self.defended.prepare(network, optimiser)
        # values: "totals", sums over the steps of the running epoch; "best", of select="best_on_test"
        self.state = TrainingState(
            {"network": network, **self.defended.networks()},
            {"optimiser": self.optimiser, **self.defended.optimisers()},
        )
        self.names: tuple[str, ...] = ()  # of the sums
        self.order: tuple[int, Sequence[Tensor]] | None = None  # epoch, indices of each step

    def to_the_end(self) -> TrainingSummary:
        devices = [self.context.device] if self.context.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            run_steps(
                self.context,
                self.state,
                steps=self.total,
                step=self._advance,
                monitor=self,
                checkpoint_seconds=self.recipe.checkpoint_seconds,
                report_seconds=REPORT_SECONDS,
            )
        epoch, selection = self.recipe.epochs, "last epoch"
        if self.recipe.select == "best_on_test":
            best = self.state.values["best"]
            self.network.load_state_dict(best["weights"])
            candidates = sum(self._selectable(epoch) for epoch in range(1, self.recipe.epochs + 1))
            epoch, selection = int(best["epoch"]), f"test-set selection: best of {candidates} epochs"
        return TrainingSummary(epoch, selection, self.defended.measured(self.network), self.defended.artefacts())

    def _indices(self, step: int) -> Tensor:
        """Which images a step takes, in an order shuffled anew in each epoch."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if self.order is None or self.order[0] != epoch:
            self.defended.train_mode(self.network)  # an evaluation came before
            self.order = epoch, self.defended.batches(epoch) or self._shuffled(epoch)
        return self.order[1][number]

    def _shuffled(self, epoch: int) -> Sequence[Tensor]:
        permutation: Tensor = torch.randperm(len(self.store), generator=self.streams.generator("order", epoch))
        return [*permutation.split(self.batch_size)]

    def _advance(self, step: int) -> Mapping[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(step, self.steps_per_epoch)
        indices = self._indices(step)
        images = self.defended.inputs(indices)
        if images is None:
            generator = self.streams.generator("augment", step)
            images = self.recipe.batch(self.store, indices, generator, self.context.device)
            images = images.contiguous(memory_format=self.layout)
        goals = self.goals[indices.to(self.goals.device, non_blocking=True)]
        batch = self.defended.batch(
            Batch(images=images, labels=goals, step=step, epoch=step // self.steps_per_epoch, plain=len(indices))
        )
        torch.manual_seed(derive(self.streams.seed, *self.streams.names, "dropout", step))
        with autocast(self.context):
            output = self.defended.forward(self.module, batch.images)
        terms = dict(self.loss(output, batch.labels, batch.epoch))
        if (changed := self.defended.classification_loss(output, batch)) is not None:
            terms["loss"] = changed
        for name, penalty in self.defended.penalties(output, batch).items():
            terms |= {"loss": terms["loss"] + penalty, name: penalty}
        terms["loss"].backward()
        self.defended.before_update(self.network, batch)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {name: term.detach().float() for name, term in terms.items()}

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        self.names, batch = tuple(terms), torch.stack(list(terms.values()))
        first_of_epoch = step % self.steps_per_epoch == 0
        values = self.state.values
        values["totals"] = batch if first_of_epoch else values["totals"].to(batch.device) + batch

    def after(self, done: int) -> bool:
        epoch, batch = divmod(done, self.steps_per_epoch)  # epochs that are over
        if batch:
            return False
        record: dict[str, float] = {"epoch": epoch, "learning_rate": self.optimiser.param_groups[0]["lr"]}
        record |= self._means(done)
        if epoch == self.recipe.epochs or epoch % self.recipe.evaluate_every == 0:
            measured = self.evaluate(self.network)
            record |= measured
            self._select(float(next(iter(measured.values()))), epoch)
        self.context.log(**record)
        return True

    def _select(self, score: float, epoch: int) -> None:
        """Keep the weights of the best epoch so far, where the recipe asks for it."""
        if self.recipe.select != "best_on_test" or not self._selectable(epoch):
            return
        best = self.state.values.get("best")
        if best is None or score > best["score"]:
            self.state.values["best"] = {"score": score, "epoch": epoch, "weights": copied_weights(self.network)}

    def _selectable(self, epoch: int) -> bool:
        """Whether the weights after an epoch (from 1) are those of the defence; in the last one they have to be."""
        return epoch == self.recipe.epochs or self.defended.in_force(epoch - 1)

    def text(self, done: int) -> str:
        means = (f"{name.removeprefix('train_')} {value:.3f}" for name, value in self._means(done).items())
        epoch = (done - 1) // self.steps_per_epoch + 1
        return f"epoch {epoch}/{self.recipe.epochs}, {', '.join(means)}"

    def _means(self, done: int) -> dict[str, float]:
        """Means over the steps of the running epoch; waits for the device.

        Raises:
            MibenchError: the loss is no number any more.
        """
        epoch, batch = divmod(done - 1, self.steps_per_epoch)
        means = (self.state.values["totals"] / (batch + 1)).tolist()
        named = dict(zip((f"train_{name}" for name in self.names), means, strict=True))
        if not math.isfinite(named["train_loss"]):
            cause, cure = (
                f"the training diverged in epoch {epoch + 1} (loss {named['train_loss']})",
                self.recipe.steadier,
            )
            if (why := why_diverged(self.context)) is not None:
                cause, cure = f"{cause}: {why[0]}", why[1]
            raise MibenchError(cause, cure=cure)
        return named


def why_diverged(context: TrainingContext) -> tuple[str, str] | None:
    """Why the defences of a training may have made it diverge, and what helps; None where none of them knows."""
    return next((why for defence in context.defences if (why := defence.why_diverged()) is not None), None)


def preferred_layout(network: nn.Module, context: TrainingContext) -> torch.memory_format:
    """The faster memory layout for training: channels_last, except for IR networks in bfloat16 on a CPU.

    Those spend their time in norms over few channels, which torch does slowly in channels_last: at widths 0.125 and
    0.25 the plain layout was 7 to 18 % faster. In float32, and for VGG16, channels_last was up to 60 % faster.
    """
    plain = context.device.type == "cpu" and context.precision == "bfloat16"
    if plain and any(isinstance(module, Backbone) for module in network.modules()):
        return torch.contiguous_format
    return torch.channels_last
