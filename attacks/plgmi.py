"""PLG-MI: Pseudo Label-Guided Model Inversion (Yuan et al., AAAI 2023, arXiv 2302.09814), the inversion.

The generator was trained to make images of each class of the target (``--prior plgmi``, which belongs to one target),
so the search for a person is one among that person's latents: from z ~ N(0, I), Adam descends the target's max-margin
loss, summed over two random views of the image. Nothing keeps z near where the generator was trained.

Legend: U identities of a unit, R restarts of each, N = U R, V views of a step, Z noise dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches, should_report
from .class_conditional import require_classes
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .jittered_views import apply_jittered_views, draw_jittered_views
from .losses import IDENTITY_LOSSES, identity_loss
from .rendering import render_images
from .requirements import check_ranges, require_prior


@dataclass(frozen=True, kw_only=True)
class PLGMI(Attack):
    """PLG-MI. The defaults are the released settings."""

    name: ClassVar[str] = "plgmi"
    access: ClassVar[Access] = Access.GRADIENTS
    prior: ClassVar[str | None] = "plgmi"
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    restarts: int = 5  # released: random seeds, all of them results
    steps: int = 600  # released
    learning_rate: float = 0.1  # released (Adam)
    betas: tuple[float, float] = (0.9, 0.999)  # released: Adam's own
    views: int = 2  # released: random views of each image in each step, whose losses are summed
    jitter: float = 1.0  # released: probability that a view changes brightness and contrast
    loss: str = "max_margin"  # paper; released
    selection_transforms: int = 0  # released: no ranking; random views of it, as PPA

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "restarts", "steps", "views"),
            positive=("learning_rate",),
            not_negative=("selection_transforms",),
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"plgmi: betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.jitter <= 1:
            raise MibenchError(f"plgmi: jitter is a probability, got {self.jitter}")

    def planned_queries(self, identities: int) -> Queries:
        """Every view of every step forwards and backwards, then the views of the ranking."""
        searched = identities * self.restarts * self.views * self.steps
        ranked = identities * self.restarts * max(self.selection_transforms, 1)
        return Queries(forward=searched + ranked, backward=searched)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Search the latents of all identities of the unit at once; no sample depends on another."""
        prior = require_classes(require_prior(context.prior), context.victim, self.name)
        names = labels.tolist()
        targets = labels.to(context.device).repeat_interleave(self.restarts)
        draws = [streams.generator("identity", y, "start") for y in names]
        z = torch.cat([torch.randn(self.restarts, prior.noise_dim, generator=each) for each in draws])  # (N, Z)
        z = z.to(context.device).requires_grad_()
        adam = torch.optim.Adam([z], lr=self.learning_rate, betas=self.betas)
        history: dict[str, list[Tensor]] = {}
        for step in range(self.steps):
            views = self._views(names, step, streams).to(context.device, non_blocking=True)
            adam.zero_grad(set_to_none=True)
            losses = self._backward(context, z, targets, views)
            history.setdefault("L_id", []).append(losses.view(len(names), -1).mean(dim=1))
            history.setdefault("z_rms", []).append(z.detach().square().view(len(names), -1).mean(dim=1).sqrt())
            adam.step()
            if should_report(step + 1, self.steps):
                context.progress(step + 1, self.steps, "search latents")
        curves = stacked(history)
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        latents = prior.of_class(z.detach(), targets).cpu()
        images = render_images(context, latents, prior.decode)
        grouped = images.view(len(names), self.restarts, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.restarts),
            confidence=confidence.flatten(),
            latents=latents,
            curves=curves,
        )

    def _views(self, names: list[int], step: int, streams: Streams) -> Tensor:
        """Views ``(V, N, 9)`` of a step."""
        count = self.views * self.restarts
        drawn = [
            draw_jittered_views(count, streams.generator("identity", y, "views", step), jitter=self.jitter)
            for y in names
        ]
        each = torch.stack(drawn).view(len(names), self.views, self.restarts, -1)
        return each.transpose(0, 1).flatten(1, 2)

    def _backward(self, context: Context, z: Tensor, targets: Tensor, views: Tensor) -> Tensor:
        """Leave the gradient of every sample's own loss at z; the losses ``(N,)``, summed over views."""
        prior = require_classes(require_prior(context.prior), context.victim, self.name)
        of_logits, losses = IDENTITY_LOSSES[self.loss], []
        for part in micro_batches(len(z), context):
            images = context.fit(prior.decode(prior.of_class(z[part], targets[part])))
            answers = [context.victim.logits(apply_jittered_views(images, view[part])).float() for view in views]
            loss = torch.stack([of_logits(logits, targets[part]) for logits in answers]).sum(dim=0)
            loss.sum().backward()
            losses.append(loss.detach())
        return torch.cat(losses)
