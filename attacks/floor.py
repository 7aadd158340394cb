"""No attack: the best draws of the prior, which are the floor of every table, and what a real attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, Queries, Reconstruction, State
from mibench.rng import Streams

from .final_ranking import robust_confidence
from .initial_selection import choose, pool, pool_confidence
from .rendering import decoder, render_images
from .requirements import check_ranges, require_prior


@dataclass(frozen=True, kw_only=True)
class Floor(Attack):
    """Draws from the prior, ranked by the victim exactly as the attacks rank their candidates; no optimisation.

    Where only labels are granted, its candidates are the images of the pool that the victim calls by the class, then
    others in the order of the pool, ranked by the share of random views that it still calls so.
    """

    name: ClassVar[str] = "floor"
    access: ClassVar[Access] = Access.LABELS
    uses_up_to: ClassVar[Access | None] = Access.SCORES

    unit_size: int = 10  # identities rendered together; no identity depends on another
    pool_size: int = 5000  # PPA and released DMMIA configuration, CelebA
    candidates: int = 200  # PPA: best of the pool for each identity
    truncation: float = 0.5  # PPA: truncation psi of the candidate search
    selection_transforms: int = 100  # PPA, section 3.4: random views of the final selection

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "candidates"),
            not_negative=("truncation", "selection_transforms"),
        )

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image."""
        return Queries(forward=2 * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """The views of the final ranking."""
        return Queries(forward=identities * min(self.candidates, self.pool_size) * max(self.selection_transforms, 1))

    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool of latents and the victim's confidence in every class for each."""
        latents = pool(context.prior, self.pool_size, streams)
        confidence = pool_confidence(context, latents, self.truncation, text="search candidates")
        return {"latents": latents, "confidence": confidence}

    @torch.no_grad()
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """The best candidates of each identity, unchanged."""
        count = min(self.candidates, state["latents"].shape[0])
        votes = context.victim.access < Access.SCORES
        latents = choose(state, labels, count, stable=votes).flatten(0, 1)  # (U K, Z)
        images = render_images(context, latents, decoder(require_prior(context.prior), self.truncation))
        grouped = images.view(len(labels), count, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images, labels=labels.repeat_interleave(count), confidence=confidence.flatten(), latents=latents
        )
