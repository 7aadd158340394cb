"""What an attack is handed, what it is, and what it hands back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mibench.records import ImageSpec
from mibench.rng import Streams

from .victim import Access, Queries, Victim


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
