"""The classifier under attack, behind an access level."""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mibench.errors import MibenchError
from mibench.records import AccessName, ImageSpec

from .network import Network

LEAST_SCORE = 1e-12  # in logarithms


class Answer(Protocol):
    """Filters between a network and those who ask: :class:`~mibench.api.FilteredAnswers`."""

    def received(self, images: Tensor) -> Tensor:
        """The images ``(N, 3, H, W)`` that the network is shown."""

    def __call__(self, logits: Tensor, images: Tensor) -> Tensor:
        """Scores ``(N, C)`` from logits ``(N, C)`` and the images that were received."""


class AccessError(MibenchError):
    """An attack asked its victim for more than the threat model grants."""


class Access(enum.IntEnum):
    """What an adversary may ask of a victim; each level includes the ones below it."""

    LABELS = 1
    SCORES = 2
    GRADIENTS = 3

    @property
    def word(self) -> AccessName:
        """The level as cards, settings and reports write it."""
        return _WORDS[self]


_WORDS: dict[Access, AccessName] = {
    Access.LABELS: "labels",
    Access.SCORES: "scores",
    Access.GRADIENTS: "gradients",
}


class ClassifierOutput(NamedTuple):
    """What every classifier of this project returns: penultimate features ``(N, D)`` and raw logits ``(N, C)``."""

    features: Tensor
    logits: Tensor


class BatchStatistics(NamedTuple):
    """What one batch normalisation was given, beside what it saw in training, ``(channels,)`` each.

    Attributes:
        mean, variance: of its input over the batch and all pixels (the variance divided by their number).
        running_mean, running_variance: of the training.
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


@dataclass
class Queries:
    """Images shown to a victim, forwards and backwards. Plain integers: counting never waits for the device."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class QueryLimit:
    """The most images that one stage of an attack may show a network: what it planned, under a query budget."""

    attack: str
    stage: str  # "its preparation", "unit 3"
    forward: int
    backward: int
    network: str = "the victim"

    def check(self, asked: Queries) -> None:
        """Refuse what was not planned."""
        for way, planned, wanted in (
            ("forwards", self.forward, asked.forward),
            ("backwards", self.backward, asked.backward),
        ):
            if wanted > planned:
                raise MibenchError(
                    f"attack {self.attack!r} planned to show {self.network} {planned} images {way} in {self.stage} "
                    f"and asked for {wanted}",
                    cure="correct its plan, or run it without: --set protocol.query_budget=null",
                )


class Victim:
    """A trained classifier behind an access level: frozen, in eval mode, counting the images it is shown.

    Args:
        network: module mapping normalised images to a :class:`ClassifierOutput` (or a ``(features, logits)`` pair).
        image: the images it takes.
        num_classes: ``C``.
        access: what the adversary may ask for.
        name: for messages and records.
        answer: filters of its scores (:class:`~mibench.api.FilteredAnswers`); None: the softmax.

    Raises:
        AccessError: gradients are granted beside filters, which they would pass by.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        image: ImageSpec,
        num_classes: int,
        access: Access,
        name: str = "victim",
        answer: Answer | None = None,
    ) -> None:
        if answer is not None and access >= Access.GRADIENTS:
            raise AccessError(f"victim {name!r} answers through filters: it can grant no gradients, which ignore them")
        self._network = network.eval().requires_grad_(False)
        self.image = image
        self.num_classes = num_classes
        self.access = access
        self.name = name
        self._answer = answer
        self.queries = Queries()
        self.limit: QueryLimit | None = None
        self._mean = torch.tensor(image.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(image.std).view(1, -1, 1, 1)
        self._normalises = any(m != 0.0 for m in image.mean) or any(s != 1.0 for s in image.std)
        self._moments: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def deterministic(self) -> Victim:
        """The same victim with a network that draws no random numbers, for an adversary who holds the weights.

        One that draws none anyway is its own. Images shown count as shown to this victim, since its count was last
        reset.

        Raises:
            AccessError: less than gradients are granted.
        """
        if self.access < Access.GRADIENTS:
            raise AccessError(
                f"victim {self.name!r} grants {self.access.name}: only who holds the network can keep it from drawing "
                "random numbers"
            )
        network = self._network.deterministic() if isinstance(self._network, Network) else None
        if network is None:
            return self
        other = copy.copy(self)
        other._network = network.eval().requires_grad_(False)
        return other

    def labels(self, images: Tensor) -> Tensor:
        """Predicted labels ``(N,)``, int64, no gradient; filters do not change them."""
        with torch.no_grad():
            return self._forward(images, Access.LABELS).logits.argmax(dim=1)

    def scores(self, images: Tensor) -> Tensor:
        """Softmax probabilities ``(N, C)``, or what filters make of them; no gradient."""
        with torch.no_grad():
            if self._answer is None:
                return self._forward(images, Access.SCORES).logits.softmax(dim=1)
            images = self._answer.received(images)
            return self._answer(self._forward(images, Access.SCORES).logits, images)

    def log_scores(self, images: Tensor) -> Tensor:
        """Logarithms of :meth:`scores` ``(N, C)``, of 1e-12 at least: filters may answer 0."""
        return self.scores(images).clamp_min(LEAST_SCORE).log()

    def logits(self, images: Tensor) -> Tensor:
        """Raw logits ``(N, C)``, differentiable with respect to ``images``."""
        return self._forward(images, Access.GRADIENTS).logits

    def features_and_logits(self, images: Tensor) -> ClassifierOutput:
        """Penultimate features ``(N, D)`` and raw logits ``(N, C)``, differentiable with respect to ``images``."""
        return self._forward(images, Access.GRADIENTS)

    def batch_statistics(self, images: Tensor) -> tuple[Tensor, list[BatchStatistics]]:
        """Raw logits ``(N, C)`` and statistics of every ``BatchNorm2d`` in the order of its passes, differentiable with
        respect to ``images``. They belong to the batch as a whole.

        Raises:
            MibenchError: the network has no such layer.
        """
        layers = [
            module
            for module in self._network.modules()
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
        ]
        if not layers:
            raise MibenchError(
                f"the network of victim {self.name!r} has no batch normalisation whose statistics could be matched",
                cure="choose another target, or an attack that reads nothing but answers",
            )
        passed: list[BatchStatistics] = []

        def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            variance, mean = torch.var_mean(given[0].float(), dim=(0, 2, 3), correction=0)
            kept = dict(module.named_buffers(recurse=False))
            passed.append(BatchStatistics(mean, variance, kept["running_mean"], kept["running_var"]))

        handles = [layer.register_forward_pre_hook(note) for layer in layers]
        try:
            return self.logits(images), passed
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, images: Tensor, needed: Access) -> ClassifierOutput:
        if needed > self.access:
            raise AccessError(
                f"victim {self.name!r} grants {self.access.name}, the attack asked for {needed.name}",
                cure=f"choose an attack that needs no more than {self.access.name}",
            )
        expected = (self.image.channels, self.image.size, self.image.size)
        if tuple(images.shape[1:]) != expected:
            raise MibenchError(f"victim {self.name!r} takes images of shape {expected}, got {tuple(images.shape[1:])}")
        count = images.shape[0]
        self._count(forward=count)
        if images.requires_grad and torch.is_grad_enabled():
            images = images.view_as(images)  # a node of our own, so that the hook counts and nothing else changes
            images.register_hook(lambda gradient: self._count(backward=count))
        if not self._normalises:
            images = images.clone()  # a network may write to what it is given, and these belong to the caller
        if self._normalises:
            mean, std = self._moments_for(images)
            images = (images - mean) / std
        features, logits = self._network(images)
        return ClassifierOutput(features, logits)

    def _moments_for(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std where the images are. Moved once: a copy at every pass would wait for the device every time."""
        key = images.device, images.dtype
        if key not in self._moments:
            with torch.inference_mode(False):  # else no later pass could be differentiated
                self._moments[key] = self._mean.to(images), self._std.to(images)
        return self._moments[key]

    def _count(self, forward: int = 0, backward: int = 0) -> None:
        if self.limit is not None:
            self.limit.check(Queries(self.queries.forward + forward, self.queries.backward + backward))
        self.queries.forward += forward
        self.queries.backward += backward
