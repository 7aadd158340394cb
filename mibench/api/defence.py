"""Defences: what keeps a classifier from giving away its private training images.

A :class:`Defence` is like an attack: a frozen dataclass whose fields are the settings, registered by name. It may
change the architecture, and during the training it acts through :class:`TrainingHooks`: which images make up a batch,
what they look like, the loss, which weights are trained, and by which optimiser. Hooks of several defences apply in the
order in which the defences were named. Hooks that do nothing leave a training as it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.rng import Streams

from .victim import ClassifierOutput, Victim


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """The training that a defence takes part in.

    Attributes:
        epochs, steps_per_epoch, batch_size: its length; an epoch drops the images that fill no batch.
        num_classes: C.
        labels: int64 ``(N,)`` on the CPU, of the training images in their order.
        size: side of the images in pixels.
        device: where the network is.
        streams: random numbers of this defence alone; name a generator by its purpose and its step or epoch, so that a
            resumed training equals an uninterrupted one.
        initial: the tensors of the card that :meth:`Defence.backbone` names.
        autocast: the training's precision, a context manager around forward passes.
        images: indices ``(B,)`` to training images ``(B, 3, S, S)`` in [0, 1] on the device, not augmented.
        teacher: the undefended twin, frozen and in evaluation, for a defence with ``needs_teacher``; images in [0, 1].
        public: ``public(n)`` gives the first n public images, all for None: uint8 ``(N, 3, S, S)``.
        fresh_network: ``fresh_network(streams, num_classes=1, width=0.5)`` is another network of the architecture that
            is trained, ``width`` times as wide, with initial weights of the streams.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    num_classes: int
    labels: Tensor
    size: int
    device: torch.device
    streams: Streams
    images: Callable[[Tensor], Tensor]
    initial: Mapping[str, Tensor] | None = None
    autocast: Callable[[], AbstractContextManager[object]]
    fresh_network: Callable[..., nn.Module] | None = None
    teacher: Victim | None = None
    public: Callable[[int | None], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a training step shows the network.

    Attributes:
        images: float32 ``(B, 3, S, S)`` in [0, 1], augmented.
        labels: int64 ``(B,)``.
        step, epoch: from 0, over the whole training.
        weights: ``(B,)``, factors of the samples' losses before the mean; None: all 1.
        plain: how many samples, from the first, are training images under their own labels. The rest is a defence's.
    """

    images: Tensor
    labels: Tensor
    step: int
    epoch: int
    weights: Tensor | None = None
    plain: int


class TrainingHooks:
    """What a defence does during a training. The defaults do nothing.

    Attributes:
        networks, optimisers: a defence's own, by name; they are saved in checkpoints with the classifier's.
        hidden_layers: names of the classifier's modules whose outputs :meth:`penalties` wants to see.
    """

    hidden_layers: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module that is called with a batch, and the optimiser that steps; the classifier's own by default.

        Called once, after the optimiser was built over the weights that require gradients.
        """
        return network, optimiser

    def train_mode(self, network: nn.Module) -> None:
        """Called whenever the classifier went into training mode: put back into evaluation what is frozen."""

    def batches(self, epoch: int) -> Sequence[Tensor] | None:
        """Indices of the images of every step of an epoch, ``steps_per_epoch`` int64 tensors on the CPU.

        None: shuffled batches of one size. The first defence that answers decides.
        """
        return None

    def inputs(self, indices: Tensor) -> Tensor | None:
        """What the module of :meth:`prepare` is called with for these images ``(B,)``, such as cached features.

        None: the images, augmented. The first defence that answers decides.
        """
        return None

    def batch(self, batch: Batch) -> Batch:
        """Change the images, add samples, or train networks of one's own on them. Runs before the forward pass."""
        return batch

    def classification_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor | None:
        """Losses ``(B,)`` from float32 logits ``(B, C)`` in the place of the cross entropy; None leaves it in place.

        The first defence that answers decides.
        """
        return None

    def penalties(self, output: ClassifierOutput, hidden: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        """Named scalars that are added to the loss.

        Args:
            output: of the classifier, in the training's precision.
            hidden: module name -> output, for :attr:`hidden_layers`.
            batch: what was shown.
        """
        return {}

    def before_update(self, network: nn.Module, batch: Batch) -> None:
        """Called between the backward pass and the optimiser's step: where gradients are clipped."""

    def artefacts(self) -> Mapping[str, Tensor]:
        """Tensors for analysis, at the end of the training. They are stored beside the weights; no attack gets them."""
        return {}

    def in_force(self, epoch: int) -> bool:
        """Whether the defence acts in whole in an epoch (from 0). ``select=best_on_test`` keeps no others' weights."""
        return True

    def measured(self, network: nn.Module) -> Mapping[str, float | int | str]:
        """Facts for the card, at the end of the training."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Defence:
    """A defence and its settings.

    Attributes:
        name: the registered one.
        alone: it combines with no other defence.
        control: it is expected to leak *more*: a control beside the defences, never to be offered as one.
        replaces_loss: it weighs samples or puts another loss in the place of the cross entropy, so that no smoothing of
            the recipe's own applies.
        needs_teacher: it learns from what the undefended twin answers.
        compatible: architectures that it applies to; None: all.
        adaptive: attacks that know of it, ``NAME`` or ``NAME:VARIANT``: what looks for the leak behind a gradient or an
            answer that it merely hides. A suite with ``adaptive: true`` runs them.
    """

    name: ClassVar[str]
    alone: ClassVar[bool] = False
    control: ClassVar[bool] = False
    replaces_loss: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    compatible: ClassVar[tuple[str, ...] | None] = None
    adaptive: ClassVar[tuple[str, ...]] = ()

    def backbone(self, architecture: str) -> str | None:
        """The card of the public weights that the defence of ``architecture`` starts from; None: it needs none.

        A name without ``@`` is completed by the data set of the training.
        """
        return None

    def check(self) -> None:
        """Raise where a setting makes no sense."""

    def why_diverged(self) -> tuple[str, str] | None:
        """Why a training with these settings may diverge, and what helps: cause and cure, a clause each.

        None: the defence is no likelier cause than the learning rate.
        """
        return None

    def architecture(self, name: str, arguments: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The architecture that is trained in the place of ``name``, and its keyword arguments."""
        return name, dict(arguments)

    def other_answers(self, network: nn.Module) -> Mapping[str, nn.Module]:
        """Other ways in which the trained network could answer, name -> module; ``network`` stays as it is.

        The card has the accuracy of each as ``test_accuracy_NAME``.
        """
        return {}

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """What it does during one training.

        Called before the optimiser is built: weights that shall not be trained are frozen here.
        """
        return TrainingHooks()
