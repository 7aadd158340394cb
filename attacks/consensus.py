"""Consensus: candidates of one person agree on the person and differ in noise, so they are averaged, in rounds.

Ours. From a pool of latents the best candidates of each identity are chosen as in PPA. Adam moves a style for each
layer of the synthesis network down the cross entropy of images under views that vary what a photograph has beside the
person (:mod:`mibench.attacks.nuisance_views`); a gradient that is a mean over views is AlignMI's idea (NeurIPS 2025,
arXiv 2509.20177). After each round, the last one included, every candidate becomes the mean of some others of its
identity, no two of them of the same others. The finished images are ranked as in PPA.

A candidate has its own loss, views and moments of Adam, so no result depends on how candidates are batched.

Legend: U identities of a unit, K candidates of each, W dimension of w, L layers that take a style.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MappingPrior, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import blocks, scatter_into_step
from .candidate_subsets import draw_subsets, require_subset_size
from .diagnostics import by_twentieth, stacked, stray_note
from .final_ranking import robust_confidence
from .initial_selection import choose, pool, pool_confidence
from .losses import IDENTITY_LOSSES, identity_loss
from .parameterisation import DirectStyles, LayerStyles
from .rendering import render_images
from .requirements import check_ranges, require_mapping, require_styles
from .views import Views, apply_views, draw_views


@dataclass(frozen=True, kw_only=True)
class Consensus(Attack):
    """Rounds of descent and averaging. Every value is ours; docs/consensus.md says what each is for."""

    name: ClassVar[str] = "consensus"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # identities in one batch; no identity depends on another
    pool_size: int = 500
    candidates: int = 16  # all of them results
    truncation: float = 1.0  # psi of the candidates
    optimise: Literal["style", "styles"] = "styles"  # one for all layers, as PPA; or one for each layer
    shared_steps: int = 0  # first steps in which all layers still share a style
    steps: int = 40  # of all rounds together
    rounds: int = 3
    first_round: float = 0.4  # its share of the steps; the other rounds share the rest evenly
    subset: int = 6  # other candidates whose mean a candidate becomes after a round; 0: none is averaged
    final_consensus: bool = True  # after the last round as well
    views: Views = "nuisance"  # in each step; crops: as PPA
    crop_scale: tuple[float, float] = (0.9, 1.0)  # area of a crop, where views are crops
    loss: str = "cross_entropy"
    prior_weight: float = 0.0  # of the mean squared distance of w to the prior's mean, in standard deviations of w
    learning_rate: float = 0.08  # of the first round, on truncated w
    later_rate: float = 0.5  # of the other rounds, as a share of the first one's
    betas: tuple[float, float] = (0.1, 0.1)  # as PPA; Adam begins anew after each consensus
    selection_transforms: int = 10  # random views of the final ranking

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "candidates", "steps", "rounds"),
            positive=("truncation", "learning_rate", "later_rate"),
            not_negative=("shared_steps", "prior_weight", "selection_transforms"),
        )
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"consensus: candidates ({self.candidates}) are chosen from the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )
        if self.rounds > self.steps:
            raise MibenchError(
                f"consensus: {self.rounds} rounds need a step each, steps is {self.steps}", cure="lower rounds"
            )
        if not 0 < self.first_round <= 1:
            raise MibenchError(f"consensus: first_round must be a share in (0, 1], got {self.first_round}")
        if self.subset:
            require_subset_size("consensus", "subset", self.subset, self.candidates)
        if self.shared_steps and self.optimise == "style":
            raise MibenchError(
                "consensus: with optimise=style all layers share a style in every step", cure="leave shared_steps at 0"
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise MibenchError(
                f"consensus: crop_scale must be two areas in (0, 1], the smaller first, got {self.crop_scale}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"consensus: betas must lie in [0, 1), got {self.betas}")

    @property
    def schedule(self) -> tuple[int, ...]:
        """Steps of each round, at least one; where the later ones cannot be alike, earlier ones are longer."""
        later = self.rounds - 1
        first = min(max(1, round(self.first_round * self.steps)), self.steps - later) if later else self.steps
        return first, *((self.steps - first + later - 1 - number) // later for number in range(later))

    @property
    def averaged_after(self) -> frozenset[int]:
        """Numbers of steps after which candidates are replaced by means."""
        ends = tuple(accumulate(self.schedule))
        return frozenset((ends if self.final_consensus else ends[:-1]) if self.subset else ())

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image."""
        return Queries(forward=2 * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """Every candidate forwards and backwards in every step, then its views in the final ranking."""
        optimised = identities * self.candidates * self.steps
        ranked = identities * self.candidates * max(self.selection_transforms, 1)
        return Queries(forward=optimised + ranked, backward=optimised)

    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool of latents and the victim's confidence in every class for each."""
        latents = pool(self._prior(context), self.pool_size, streams)
        confidence = pool_confidence(context, latents, self.truncation, text="search candidates")
        return {"latents": latents, "confidence": confidence}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise and average the candidates of every identity, then render and rank them."""
        prior, names, count = self._prior(context), labels.tolist(), self.candidates
        latents = choose(state, labels, count).to(context.device)  # (U, K, Z)
        kind = LayerStyles if self.optimise == "styles" else DirectStyles
        styles = kind(prior, latents, self.learning_rate, self.betas, psi=self.truncation)
        targets = labels.to(context.device).repeat_interleave(count)
        rows = torch.arange(count, device=context.device).expand(len(names), count)
        history: dict[str, list[Tensor]] = {"loss": [], "drift": [], "spread": []}
        for step in range(self.steps):
            styles.learning_rate = self.learning_rate * (self.later_rate if step >= self.schedule[0] else 1)
            if isinstance(styles, LayerStyles):
                styles.tied = step < self.shared_steps
            w = styles.w(rows)  # (U, K, W), or (U, K, L, W)
            history["drift"].append(styles.drift(w, rows))
            views = draw_views(self.views, names, count, step, streams, self.crop_scale)
            history["loss"].append(self._backward(context, prior, w, targets, views))
            styles.step(rows)
            if step + 1 in self.averaged_after:
                subsets = draw_subsets(names, count, self.subset, step + 1, streams)
                styles.replace_by_means(subsets.to(context.device, non_blocking=True))
            history["spread"].append(styles.spread())
            context.progress(step + 1, self.steps, f"step {step + 1}/{self.steps}")
        curves = stacked(history)
        context.log(event=self.name, identities=names, schedule=list(self.schedule), **by_twentieth(curves))
        finished = styles.finished().detach().flatten(0, 1)
        images = render_images(context, finished, prior.synthesis)
        grouped = images.view(len(names), count, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels.cpu(), streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.cpu().repeat_interleave(count),
            confidence=confidence.flatten(),
            latents=styles.untruncated(finished).float().cpu(),
            curves=curves,
            notes=tuple(stray_note(curves["drift"])),
        )

    def _prior(self, context: Context) -> MappingPrior:
        prior = require_mapping(context.prior)
        return require_styles(prior, self.name, instead="style") if self.optimise == "styles" else prior

    def _backward(self, context: Context, prior: MappingPrior, w: Tensor, targets: Tensor, views: Tensor) -> Tensor:
        """Leave the gradient of every candidate's own loss at ``w`` ``(U, K, ...)``; mean losses ``(U,)``."""
        shape, losses = w.shape[:2], []
        for identities, block in blocks(shape, context):
            images = context.fit(prior.synthesis(w[identities, block].flatten(0, 1)))
            shown = apply_views(self.views, images, views[identities, block].flatten(0, 1))
            logits = scatter_into_step(context.victim.logits(shown).float(), shape, identities, block)
            loss = IDENTITY_LOSSES[self.loss](logits.flatten(0, 1), targets).view(shape)[identities, block]
            loss.sum().backward()
            losses.append(loss.detach().flatten())
        if self.prior_weight:
            strayed = (prior.truncate(w, 1 / self.truncation) - prior.w_avg.to(w)) / prior.w_std.to(w)
            (self.prior_weight * strayed.square().flatten(2).mean(dim=2).sum()).backward()
        return torch.cat(losses).view(shape).mean(dim=1)
