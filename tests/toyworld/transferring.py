"""An attack of the toy world that may follow another network's gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, Queries, Reconstruction, State
from mibench.rng import Streams

from .attacks import starts


@dataclass(frozen=True, kw_only=True)
class ToyTransfer(Attack):
    """Gradient ascent on a network's logit, the victim's unless a surrogate is named; the victim ranks."""

    name: ClassVar[str] = "toytransfer"
    access: ClassVar[Access] = Access.GRADIENTS
    budget_setting: ClassVar[str] = "steps"
    later_settings: ClassVar[tuple[str, ...]] = ("surrogate", "greedy")

    unit_size: int = 2
    steps: int = 5
    samples: int = 3
    surrogate: str | None = None
    greedy: bool = False  # shows the surrogate more than it planned

    @property
    def least_access(self) -> Access:
        return self.access if self.surrogate is None else Access.SCORES

    @property
    def needs_surrogate(self) -> str | None:
        return self.surrogate

    def planned_queries(self, identities: int) -> Queries:
        images = identities * self.samples
        return Queries(images) if self.surrogate else Queries(images * (self.steps + 1), images * self.steps)

    def planned_surrogate_queries(self, identities: int) -> Queries:
        images = identities * self.samples * self.steps
        return Queries(images, images) if self.surrogate else Queries()

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        assert context.prior is not None
        network = context.victim if self.surrogate is None else context.surrogate
        assert network is not None
        latents, wanted = starts(context, labels, self.samples, streams)
        latents.requires_grad_(True)
        for _ in range(self.steps + self.greedy):
            logits = network.logits(context.fit(context.prior.decode(latents)))
            (gradient,) = torch.autograd.grad(logits.gather(1, wanted[:, None]).sum(), latents)
            with torch.no_grad():
                latents += 0.5 * gradient
        with torch.no_grad():
            images = context.fit(context.prior.decode(latents))
            confidence = context.victim.scores(images).gather(1, wanted[:, None]).squeeze(1)
        return Reconstruction(images, wanted, confidence, latents.detach())
