"""The contract between the referee and the parties (attacks, targets, reports).

Conventions, stated once:

* Images are float32 tensors ``(N, 3, H, W)``, RGB, in [0, 1]. Stored images are uint8 ``(N, 3, H, W)``.
* Labels are int64 tensors ``(N,)``. ``C`` is the number of classes, ``D`` a feature dimension, ``U`` the number of
  identities in a unit.
* A network's own normalisation (mean, std) lives inside its wrapper, never in an attack.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mibench.errors import MibenchError as MibenchError  # part of the contract; defined where torch is not needed
from mibench.errors import Misfit as Misfit
from mibench.errors import MisfitError as MisfitError
from mibench.records import Card as Card
from mibench.records import Estimate as Estimate
from mibench.records import ImageSpec as ImageSpec
from mibench.records import WeightsFile as WeightsFile
from mibench.rng import Streams
from mibench.system.foreign_code import foreign as foreign  # the guard around code that comes with a person's model
from mibench.system.foreign_code import text_of as text_of
from mibench.system.foreign_code import worded as worded


class AccessError(MibenchError):
    """An attack asked its victim for more than the threat model grants."""


class Access(enum.IntEnum):
    """What an adversary may ask of a victim; each level includes the ones below it."""

    LABELS = 1
    SCORES = 2
    GRADIENTS = 3


class ClassifierOutput(NamedTuple):
    """What every classifier of this project returns: penultimate features ``(N, D)`` and raw logits ``(N, C)``."""

    features: Tensor
    logits: Tensor


@dataclass
class Queries:
    """Images shown to a victim, forwards and backwards. Plain integers: counting never waits for the device."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class QueryLimit:
    """The most images that one stage of an attack may show its victim: what it planned, under a query budget."""

    attack: str
    stage: str  # "its preparation", "unit 3"
    forward: int
    backward: int

    def check(self, asked: Queries) -> None:
        """Refuse what was not planned."""
        for way, planned, wanted in (
            ("forwards", self.forward, asked.forward),
            ("backwards", self.backward, asked.backward),
        ):
            if wanted > planned:
                raise MibenchError(
                    f"attack {self.attack!r} planned to show the victim {planned} images {way} in {self.stage} and "
                    f"asked for {wanted}; correct its plan, or run it without: --set protocol.query_budget=null"
                )


class Victim:
    """A trained classifier behind an access level: frozen, in eval mode, counting the images it is shown.

    Args:
        network: module mapping normalised images to a :class:`ClassifierOutput` (or a ``(features, logits)`` pair).
        image: the images it takes.
        num_classes: ``C``.
        access: what the adversary may ask for.
        name: for messages and records.
    """

    def __init__(
        self, network: nn.Module, *, image: ImageSpec, num_classes: int, access: Access, name: str = "victim"
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self.image = image
        self.num_classes = num_classes
        self.access = access
        self.name = name
        self.queries = Queries()
        self.limit: QueryLimit | None = None
        self._mean = torch.tensor(image.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(image.std).view(1, -1, 1, 1)
        self._normalises = any(m != 0.0 for m in image.mean) or any(s != 1.0 for s in image.std)
        self._moments: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def labels(self, images: Tensor) -> Tensor:
        """Predicted labels ``(N,)``, int64, no gradient."""
        with torch.no_grad():
            return self._forward(images, Access.LABELS).logits.argmax(dim=1)

    def scores(self, images: Tensor) -> Tensor:
        """Softmax probabilities ``(N, C)``, no gradient."""
        with torch.no_grad():
            return self._forward(images, Access.SCORES).logits.softmax(dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """Raw logits ``(N, C)``, differentiable with respect to ``images``."""
        return self._forward(images, Access.GRADIENTS).logits

    def features_and_logits(self, images: Tensor) -> ClassifierOutput:
        """Penultimate features ``(N, D)`` and raw logits ``(N, C)``, differentiable with respect to ``images``."""
        return self._forward(images, Access.GRADIENTS)

    def _forward(self, images: Tensor, needed: Access) -> ClassifierOutput:
        if needed > self.access:
            raise AccessError(
                f"victim {self.name!r} grants {self.access.name}, the attack asked for {needed.name}; "
                f"choose an attack that needs no more than {self.access.name}"
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
            images = images.clone()  # a network may write to what it is given, and these are somebody else's
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


@runtime_checkable
class Prior(Protocol):
    """A generative model of public images. StyleGAN2 priors have ``mapping`` and ``synthesis`` besides.

    Two more attributes are optional: ``crop`` is the side in pixels of the middle square that :meth:`Context.fit` shows
    a victim (absent or None: the whole image), ``bytes_per_image`` the memory that decoding one image takes forwards
    and backwards, which bounds the micro-batch.
    """

    name: str
    image: ImageSpec
    latent_dim: int

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents ``(n, latent_dim)``, float32, on the CPU (so that draws do not depend on the device)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(n, 3, H, W)`` in [0, 1] from latents."""

    def realism(self, images: Tensor) -> Tensor:
        """Per-image realism score ``(n,)``, higher is more realistic (the discriminator's logit)."""


@dataclass(frozen=True)
class Context:
    """All that an adversary may touch. Private data and the judge are absent by construction.

    Attributes:
        victim: the classifier under attack.
        prior: a generative model trained on public identities only.
        public: ``public(n)`` gives ``n`` public images ``(n, 3, H, W)`` in [0, 1] at the victim's size.
        device: where to compute.
        micro_batch: the most images in one forward pass; it must not change a result.
        log: ``log(**numbers_or_text)`` appends a record to the run's log; cheap, called outside inner loops.
        progress: ``progress(done, total, text)`` moves the progress bar; called at most a few times a second.
    """

    victim: Victim
    prior: Prior | None
    device: torch.device
    public: Callable[[int], Tensor] | None = None
    micro_batch: int = 256
    log: Callable[..., None] = lambda **record: None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None

    def fit(self, images: Tensor) -> Tensor:
        """Bring images ``(N, 3, H, W)`` of the prior to the victim's size, differentiable: the middle square that the
        prior's ``crop`` names, then an antialiased bilinear resize."""
        size = self.victim.image.size
        crop = getattr(self.prior, "crop", None)
        if crop is not None:
            top, left = round((images.shape[-2] - crop) / 2), round((images.shape[-1] - crop) / 2)
            images = images[..., top : top + crop, left : left + crop]
        if images.shape[-1] == size and images.shape[-2] == size:
            return images
        return nn.functional.interpolate(
            images, size=(size, size), mode="bilinear", align_corners=False, antialias=True
        ).clamp(0, 1)


@dataclass
class Reconstruction:
    """What an attack hands back for one unit. The adversary ranks by ``confidence``; the referee selects and judges.

    Attributes:
        images: ``(N, 3, H, W)`` in [0, 1], at the victim's size.
        labels: target class of each image, int64 ``(N,)``.
        confidence: the adversary's own ranking ``(N,)``, higher is better.
        latents: what the images were decoded from, ``(N, ...)``; empty when the attack has none.
        curves: name -> ``(U, steps)`` or ``(steps,)`` float32; loss curves and diagnostics, drawn by the reports.
        notes: sentences for the run's record (a saturated loss, a fallback taken).
    """

    images: Tensor
    labels: Tensor
    confidence: Tensor
    latents: Tensor = field(default_factory=lambda: torch.empty(0))
    curves: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack is a frozen dataclass: its fields are its hyper-parameters and go into the record of the run.

    A subclass sets ``name`` and ``access`` (the least it needs) and implements :meth:`reconstruct`. Losses are per
    sample and summed, random numbers come from ``streams`` only, nothing frozen computes gradients.

    ``prior`` names the generative model the attack was published with; a run uses it unless another one is asked for.
    ``budget_setting`` is the whole-number field that a protocol's query budget decides (the number of steps, say):
    :meth:`planned_queries` must not fall when it grows. None: a budget can only accept or refuse the attack.
    """

    name: ClassVar[str]
    access: ClassVar[Access]
    needs_mapping: ClassVar[bool] = False
    prior: ClassVar[str | None] = None  # None: the protocol's
    budget_setting: ClassVar[str | None] = None

    unit_size: int = 10  # identities attacked together; part of the result, so part of the configuration

    def planned_preparation(self) -> Queries | None:
        """Images that :meth:`prepare` will show the victim. None: the attack cannot say."""
        return Queries()

    def planned_queries(self, identities: int) -> Queries | None:
        """Images that :meth:`reconstruct` will show the victim for a unit of ``identities``. None: it cannot say."""
        return None

    def prepare(self, context: Context, streams: Streams) -> State:
        """Work shared by all units (a candidate pool, say): name -> tensor. Stored once and reused on resume."""
        return {}

    @abstractmethod
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Reconstruct the identities ``labels`` (int64 ``(U,)``) together."""


class Checkpoint(Protocol):
    """Where a training keeps its state. The referee implements it: atomic writes, safe loading."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state (nested dicts, lists, tensors, numbers, text), or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state; a crash leaves the old one or the new one, nothing in between."""


@dataclass(frozen=True)
class Workshop:
    """Where a recipe works: device, precision ("float32" or "bfloat16" autocast), seed, checkpoint, log, progress.

    ``initial`` holds the tensors of the backbone card that a recipe's setting ``init`` names; None: fresh weights.
    """

    device: torch.device
    checkpoint: Checkpoint
    seed: int = 0
    precision: str = "float32"
    log: Callable[..., None] = lambda **record: None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None
    initial: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a recipe hands back; the referee hashes and stores it and writes the card."""

    architecture: str
    arguments: Mapping[str, Any]
    image: ImageSpec
    weights: Mapping[str, Tensor]
    classes: int | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    notes: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """How a set of weights is trained. Like an attack: a frozen dataclass whose fields are the settings.

    ``wants`` says what the referee hands over: ``"split"`` is the whole :class:`~mibench.data.split.IdentitySplit`
    (defender and referee only); ``"public"`` is ``public(size) -> uint8 (N, 3, size, size)`` and nothing else;
    ``"public+victim"`` is a :class:`PublicAndVictim`, for a prior that is made against one target.
    """

    kind: ClassVar[str]  # target | judge | regressor | prior | backbone
    wants: ClassVar[str] = "split"

    @abstractmethod
    def run(self, data: Any, workshop: Workshop) -> Trained:
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
    extras: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


class Importer(Protocol):
    """Turns foreign weights into ours; catalogues name importers ``kind:architecture``, or ``kind`` for all of a kind.

    A party knows the formats its own networks were released in: key remapping and arguments belong to it. The referee
    reads files, checks hashes, loads the result strictly, measures, and stores it.
    """

    def __call__(self, architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, Any]) -> Trained:
        """What the card and the safetensors file will hold.

        Args:
            architecture: the registered name that was asked for.
            files: one or more (a generator and its critic come in two), in the order given.
            settings: ``--set import.NAME=VALUE``; unknown ones are refused here.

        Raises:
            MibenchError: the tensors are not those of this architecture; names keys and the likely cause.
        """


@dataclass(frozen=True)
class PublicAndVictim:
    """What an adversary may touch who trains a prior against one target.

    Attributes:
        public: ``public(size)`` gives all public images, uint8 ``(N, 3, size, size)``.
        victim: the target; it counts what the training shows it, and the count goes onto the prior's card.
    """

    public: Callable[[int], Tensor]
    victim: Victim
