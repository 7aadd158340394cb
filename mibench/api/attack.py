"""What an attack is handed, what it is, and what it hands back."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mibench.errors import MibenchError
from mibench.records import ImageSpec
from mibench.rng import Streams

from .victim import Access, Queries, Victim

HANDED_TENSORS = ("decode", "realism", "mapping", "truncate", "synthesis", "stacked_mapping")  # methods of priors


def _read_only(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which may not write to the tensors that it is handed: they are the attack's latents and images."""

    @wraps(method)
    def checked(self: Any, *given: Any, **named: Any) -> Any:
        tensors = [one for one in (*given, *named.values()) if isinstance(one, Tensor) and not one.is_inference()]
        versions = [one._version for one in tensors]  # counts writes, also those through views
        result = method(self, *given, **named)
        if versions != [one._version for one in tensors]:
            raise MibenchError(
                f"prior {self.name!r} writes to what its {method.__name__} is given, which is the attack's",
                cure="let it work on a copy, tensor.clone()",
            )
        return result

    return checked


class Prior(ABC):
    """A generative model of public images, with frozen weights: gradients reach latents and images only.

    Its methods may not write to the tensors that they are handed (a leading in-place layer does): that is refused.

    A registered prior extends this class (or :class:`MappingPrior`). What a prior may leave out has a default here.

    Attributes:
        name: for messages and records.
        image: the images it makes.
        latent_dim: ``Z``.
        crop: side in pixels of the middle square that :meth:`Context.fit` shows a victim; None: the whole image.
        options: the arguments that ``--set prior.NAME=VALUE`` may add to those on a card.
        per_target: made against one target; a run against another target needs another card of it.
    """

    name: str
    image: ImageSpec
    latent_dim: int
    crop: int | None = None
    options: ClassVar[tuple[str, ...]] = ()
    per_target: ClassVar[bool] = False

    def __init_subclass__(cls, **extra: Any) -> None:
        super().__init_subclass__(**extra)
        for name in HANDED_TENSORS:
            method = vars(cls).get(name)
            if not inspect.isfunction(method) or method is vars(Prior).get(
                name
            ):  # the latter: declares that it has none
                continue
            if not getattr(method, "__isabstractmethod__", False):
                setattr(cls, name, _read_only(method))

    @classmethod
    @abstractmethod
    def build(
        cls, arguments: Mapping[str, object], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> Self:
        """The prior of a card, float32 on the CPU.

        Args:
            arguments: the card's, with a run's ``prior.*`` settings on top; plain YAML values.
            weights: tensors of the card's weights file.
            image: the images that the card names.
            name: of the card.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit exactly.
        """

    @classmethod  # noqa: B027
    def check(cls, arguments: Mapping[str, object], name: str) -> None:
        """Refuse arguments that :meth:`build` would refuse, before any weights are read. Default: refuse none.

        Raises:
            MibenchError: an unknown argument or a value out of its range.
        """

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place; returns itself. Default: there is nothing to move."""
        return self

    @property
    def bytes_per_image(self) -> int | None:
        """Memory that decoding one image takes, forwards and backwards, which bounds the micro-batch; None: unknown."""
        return None

    @property
    def has_discriminator(self) -> bool:
        """Whether :meth:`realism` answers. Default: the class implements it."""
        return type(self).realism is not Prior.realism

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents ``(n, Z)``, float32, on the CPU (so that draws do not depend on the device)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] from latents ``(N, Z)``."""

    def realism(self, images: Tensor) -> Tensor:
        """Realism score ``(N,)`` of images ``(N, 3, H, W)``, higher is more realistic (the discriminator's logit).

        Raises:
            MibenchError: the prior has no discriminator (see :attr:`has_discriminator`).
        """
        raise MibenchError(
            f"prior {self.name!r} comes without a discriminator", cure="choose an attack or settings without realism"
        )


class MappingPrior(Prior):
    """A prior that maps latents to styles before it synthesises an image, such as StyleGAN2.

    Shapes: N images, U identities with B latents each, ``Z`` latent and ``W`` style dimensions, ``I`` inputs of a
    layer.

    Attributes:
        num_styles: how many styles :meth:`synthesis` takes of an image, ``(N, num_styles, W)`` in place of ``(N, W)``:
            one for each layer. 1: only one for all layers.
    """

    num_styles: int = 1

    @property
    @abstractmethod
    def w_avg(self) -> Tensor:
        """The mean style ``(W,)``."""

    @property
    @abstractmethod
    def w_std(self) -> Tensor:
        """Standard deviation ``(W,)`` of each style dimension over the prior: the unit of drift."""

    @abstractmethod
    def mapping(self, z: Tensor) -> Tensor:
        """Styles ``(N, W)`` before truncation, from latents ``(N, Z)``."""

    @abstractmethod
    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """Styles ``(..., W)`` pulled towards the mean style: ``w_avg + psi (w - w_avg)``."""

    @abstractmethod
    def synthesis(self, w: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] from styles ``(N, W)``, or ``(N, num_styles, W)`` where it has several."""

    @abstractmethod
    def mapping_parameters(self) -> list[tuple[Tensor, Tensor]]:
        """Weight ``(W, I)`` and bias ``(W,)`` of each mapping layer: copies, which an attack may optimise."""

    @abstractmethod
    def stacked_mapping(self, parameters: Sequence[tuple[Tensor, Tensor]], z: Tensor) -> Tensor:
        """Styles ``(U, B, W)`` before truncation, each identity by mapping weights of its own.

        Args:
            parameters: for each layer weights ``(U, W, I)`` and biases ``(U, W)``, as copies of
                :meth:`mapping_parameters` stacked along a new first axis. Gradients flow to them.
            z: latents ``(U, B, Z)``.
        """


@dataclass(frozen=True)
class Context:
    """All that an adversary may touch. Private data and the judge are absent by construction.

    Attributes:
        victim: the classifier under attack.
        prior: a generative model trained on public identities only.
        public: ``public(n)`` gives ``n`` public images ``(n, 3, H, W)`` in [0, 1] at the victim's size.
        device: where to compute.
        micro_batch: the most images in one forward pass; it must not change a result.
        surrogate: another network, with gradients, that the attack asked for (:attr:`Attack.needs_surrogate`); what it
            is shown is no query to the victim. None: it asked for none.
        portraits: ``portraits(labels, count)`` gives portraits ``(U, count, 3, H, W)`` in [0, 1] of private people, at
            the victim's size: for controls that say so (:attr:`Attack.needs_portraits`). None for every attack.
        log: ``log(**numbers_or_text)`` appends a record to the run's log; cheap, called outside inner loops.
        progress: ``progress(done, total, text)`` moves the progress bar; called at most a few times a second.
    """

    victim: Victim
    prior: Prior | None
    device: torch.device
    public: Callable[[int], Tensor] | None = None
    micro_batch: int = 256
    surrogate: Victim | None = None
    portraits: Callable[[Tensor, int], Tensor] | None = None
    log: Callable[..., None] = lambda **record: None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None

    def fit(self, images: Tensor) -> Tensor:
        """Bring images ``(N, 3, H, W)`` of the prior to the victim's size, differentiable: the middle square that the
        prior's ``crop`` names, then an antialiased bilinear resize."""
        size = self.victim.image.size
        crop = None if self.prior is None else self.prior.crop
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

    ``uses_up_to`` is the most access that it makes use of, where that is more than it needs: its victim then grants as
    much of it as protocol and target allow, and ``context.victim.access`` says how much that is.

    ``prior`` names the generative model the attack was published with; a run uses it unless another one is asked for.
    ``needs_portraits`` makes it a control and no attack: it is handed images of the private people, its runs say so in
    every table, and no verdict rests on it.

    With ``needs_mapping`` it must be a :class:`MappingPrior`.
    ``budget_setting`` is the whole-number field that a protocol's query budget decides (the number of steps, say):
    :meth:`planned_queries` must not fall when it grows. None: a budget can only accept or refuse the attack.

    ``later_settings`` are fields that were added when there were results already. At its default, such a field leaves
    an attack as it was before: records and digests of runs then leave it out, so that equal runs keep equal names.
    """

    name: ClassVar[str]
    access: ClassVar[Access]
    uses_up_to: ClassVar[Access | None] = None  # None: no more than ``access``
    needs_mapping: ClassVar[bool] = False
    needs_portraits: ClassVar[bool] = False
    prior: ClassVar[str | None] = None  # None: the protocol's
    budget_setting: ClassVar[str | None] = None
    later_settings: ClassVar[tuple[str, ...]] = ()

    unit_size: int = 10  # identities attacked together; part of the result, so part of the configuration

    @property
    def least_access(self) -> Access:
        """The least access that it needs with its settings; ``access`` unless a subclass says otherwise."""
        return self.access

    @property
    def most_access(self) -> Access:
        """The most access that it makes use of with its settings, ``least_access`` or more."""
        return max(self.least_access, self.uses_up_to or self.least_access)

    @property
    def needs_surrogate(self) -> str | None:
        """Whose gradients it follows instead of the victim's: the card of another target of the same data set.

        ``twin`` is the undefended twin that the victim's card names. None: it needs no second network.
        """
        return None

    def planned_surrogate_queries(self, identities: int) -> Queries | None:
        """Images that :meth:`reconstruct` will show the surrogate for a unit of ``identities``. None: it cannot say.

        A query budget counts them as if the victim were shown them, so that following another network's gradients buys
        no further steps.
        """
        return Queries()

    def recorded_settings(self) -> dict[str, object]:
        """Its settings as records and digests have them: later ones only where they are not at their default."""
        settings = dataclasses.asdict(self)
        for one in dataclasses.fields(self):
            if one.name in self.later_settings and settings[one.name] == one.default:
                del settings[one.name]
        return settings

    def planned_preparation(self) -> Queries | None:
        """Images that :meth:`prepare` will show the victim. None: the attack cannot say."""
        return Queries()

    def planned_queries(self, identities: int) -> Queries | None:
        """Images that :meth:`reconstruct` will show the victim for a unit of ``identities``. None: it cannot say."""
        return None

    @property
    def stops_early(self) -> bool:
        """Whether :meth:`reconstruct` may end before it has shown all that is planned; then the plan is the most."""
        return False

    def prepare(self, context: Context, streams: Streams) -> State:
        """Work shared by all units (a candidate pool, say): name -> tensor. Stored once and reused on resume."""
        return {}

    @abstractmethod
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Reconstruct the identities ``labels`` (int64 ``(U,)``) together."""
