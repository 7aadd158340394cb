"""Trained weights: how they are trained, imported and handed over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from mibench.records import ImageSpec

from .defence import Defence
from .victim import Access, Victim

CheckpointState = dict[str, Any]  # nested dicts and lists of tensors, numbers and text, as torch.load gives them back


class Checkpoint(Protocol):
    """Where a training keeps its state. The referee implements it: atomic writes, safe loading."""

    def load(self) -> CheckpointState | None:
        """The last saved state (nested dicts, lists, tensors, numbers, text), or None."""

    def save(self, state: CheckpointState) -> None:
        """Replace the saved state; a crash leaves the old one or the new one, nothing in between."""


@dataclass(frozen=True)
class TrainingContext:
    """Where a recipe works: device, precision ("float32" or "bfloat16" autocast), seed, checkpoint, log, progress.

    ``initial`` holds the tensors of the backbone card that :attr:`Recipe.backbone` names; None: fresh weights.
    ``teacher`` is the undefended twin, where a defence needs one.
    ``defences`` act on the training in this order, and ``public`` holds the tensors of the card that each one's
    :meth:`~mibench.api.Defence.backbone` names.
    """

    device: torch.device
    checkpoint: Checkpoint
    seed: int = 0
    precision: str = "float32"
    log: Callable[..., None] = lambda **record: None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None
    initial: Mapping[str, Tensor] | None = None
    teacher: Victim | None = None
    defences: tuple[Defence, ...] = ()
    public: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # name of the defence -> tensors


@dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """What a recipe or an importer hands back; the referee hashes and stores it and writes the card.

    ``notes`` are for the card: each a sentence. ``artefacts`` are tensors for analysis, stored in a file of their own.
    """

    architecture: str
    arguments: Mapping[str, object]
    image: ImageSpec
    weights: Mapping[str, Tensor]
    classes: int | None = None
    measured: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """How a set of weights is trained. Like an attack: a frozen dataclass whose fields are the settings.

    ``needs`` says what the referee hands over: ``"split"`` is the whole :class:`~mibench.data.split.IdentitySplit`
    (defender and referee only); ``"public"`` is ``public(size) -> uint8 (N, 3, size, size)`` and nothing else;
    ``"public+identities"`` is ``public(size) -> Images``, the same images with a key of the person on each;
    ``"public+victim"`` is a :class:`PriorTrainingData`, for a prior that is made against one target; the victim answers
    as much as ``access`` says.
    """

    kind: ClassVar[str]  # target | judge | regressor | prior | backbone
    needs: ClassVar[str] = "split"
    access: ClassVar[Access] = Access.SCORES  # what a recipe that is handed a victim may ask of it
    defends: ClassVar[bool] = False  # whether it lets :attr:`TrainingContext.defences` act
    cost_only: ClassVar[frozenset[str]] = frozenset()  # settings that change no result: how often to save and to log

    @property
    def backbone(self) -> str | None:
        """The card of the weights to start from (``TrainingContext.initial``); None: fresh ones."""
        return None

    def check(self, images: int | None = None) -> None:  # noqa: B027
        """Refuse settings that make no sense. The referee calls it before anything is computed. Default: refuse none.

        Args:
            images: how many there are to train on, public ones for a recipe that gets no others; None: not counted.

        Raises:
            MibenchError: with the setting and its value.
        """

    def arguments(self) -> dict[str, object] | None:
        """The card's ``arguments`` as far as settings decide them, so that what a run sets of a prior can be checked
        before the prior is trained. None (default): they are not known before.
        """
        return None

    @abstractmethod
    def run(self, data: Any, context: TrainingContext) -> TrainedWeights:
        """Train to the end, from the checkpoint when there is one."""


@dataclass(frozen=True, kw_only=True)
class WeightsContents:
    """What a foreign weights file holds, read by the referee without running anything from it.

    Attributes:
        file: the file's name, for messages; released names carry facts (``IR152_91.16.tar``).
        sha256: of the whole file.
        container: how it was packed, for the record: "safetensors", "bare", "stylegan2-ada", or the place of the
            weights in the file ("state_dict", "model").
        tensors: key -> tensor on the CPU, wrapper prefixes (such as ``module.``) taken off.
        stripped: the prefixes that were taken off, outermost first.
        extras: what else the file says, plain values only (epoch, config, initial arguments of a generator).
        others: places of other weights in the file, which were not taken.
    """

    file: str
    sha256: str
    container: str
    tensors: Mapping[str, Tensor]
    stripped: tuple[str, ...] = ()
    extras: Mapping[str, object] = field(default_factory=dict)
    others: tuple[str, ...] = ()


class Importer(Protocol):
    """Turns foreign weights into ours; catalogues name importers ``kind:architecture``, or ``kind`` for all of a kind.

    A party knows the formats its own networks were released in: key remapping and arguments belong to it. The referee
    reads files, checks hashes, loads the result strictly, measures, and stores it.
    """

    def __call__(
        self, architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
    ) -> TrainedWeights:
        """What the card and the safetensors file will hold.

        Args:
            architecture: the registered name that was asked for.
            files: one or more (a generator and its critic come in two), in the order given.
            settings: ``--set import.NAME=VALUE``; unknown ones are refused here.

        Raises:
            MibenchError: the tensors are not those of this architecture; names keys and the likely cause.
        """


@runtime_checkable
class ExplainingImporter(Importer, Protocol):
    """An importer that knows its formats well enough to say what a file is instead."""

    def explain(self, architecture: str, files: Sequence[WeightsContents]) -> str | None:
        """Why weights do not fit ``architecture``, from what they look like; None: no idea."""


@dataclass(frozen=True)
class PriorTrainingData:
    """What an adversary may touch who trains a prior against one target.

    Attributes:
        public: ``public(size)`` gives all public images, uint8 ``(N, 3, size, size)``.
        victim: the target; it counts what the training shows it, and the count goes onto the prior's card.
    """

    public: Callable[[int], Tensor]
    victim: Victim
