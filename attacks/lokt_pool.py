"""LOKT on a pool: inversion by labels alone, by way of a surrogate (after Nguyen et al., NeurIPS 2023, 2310.19342).

LOKT trains a conditional GAN against the victim's labels, labels its images and trains surrogates on these; a white box
on the surrogates then asks the victim nothing. Here the images are the pool of a prior that exists: the victim labels
each once, surrogates learn the hard labels, PPA follows their gradients, and the share of views that the victim still
calls by the class ranks the results. So the victim's gradients and scores are never used.

Legend: N images of the pool, C classes, U identities of a unit, K candidates of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State, Victim
from mibench.api.training import initial_weights
from mibench.rng import Streams

from .batching import micro_batches, stage
from .initial_selection import pool
from .ppa import PPA
from .rendering import decoder
from .requirements import check_ranges, require_mapping
from .surrogate_networks import Surrogates, check_names, packed, restored
from .surrogate_training import answered_pool, apply_training_views, draw_training_views, half_cosine, train


@dataclass(frozen=True, kw_only=True)
class LOKTPool(Attack):
    """LOKT's surrogates on the pool's labels, then PPA. The defaults are LOKT's and PPA's released configurations."""

    name: ClassVar[str] = "lokt-pool"
    access: ClassVar[Access] = Access.LABELS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "selection_transforms"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 20_000  # ours: images that are labelled; LOKT: 500 of each class, and 12 million for its GAN
    truncation: float = 0.5  # PPA, released configuration: psi of pool and candidates

    surrogates: tuple[str, ...] = ("densenet121", "densenet161", "densenet169")  # LOKT; small (ours): for a CPU
    width: int = 32  # ours: of a small network
    training_steps: int = 23_400  # LOKT, released code: 200 times 117 batches
    training_batch: int = 256  # LOKT, released code
    training_rate: float = 0.1  # LOKT, released code: SGD, falling to 0 by a cosine
    momentum: float = 0.9  # LOKT, released code
    weight_decay: float = 5e-4  # LOKT, released code

    candidates: int = 200  # PPA, released configuration
    steps: int = 70  # PPA, released configuration: epochs
    crop_scale: tuple[float, float] = (0.9, 1.0)  # PPA, released configuration
    learning_rate: float = 0.005  # PPA, released configuration, on the truncated w
    betas: tuple[float, float] = (0.1, 0.1)  # PPA, released configuration
    loss: str = "max_margin"  # LOKT; poincare: PPA
    selection_transforms: int = 100  # PPA, released configuration; here the victim's labels of them rank

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "width", "training_steps", "candidates", "steps"),
            positive=("training_rate",),
            not_negative=("momentum", "weight_decay", "selection_transforms"),
        )
        check_names(self.name, self.surrogates)
        if self.training_batch < 2:
            raise MibenchError(
                f"lokt-pool: training_batch must be at least 2, got {self.training_batch}; surrogates normalise batches"
            )
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"lokt-pool: candidates ({self.candidates}) are chosen from the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )
        self._white_box()  # refuses what PPA refuses

    def planned_preparation(self) -> Queries:
        """Every image of the pool, once."""
        return Queries(forward=self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """The views of the final ranking: steps on a surrogate are no queries."""
        return Queries(forward=identities * self.candidates * max(self.selection_transforms, 1))

    def prepare(self, context: Context, streams: Streams) -> State:
        """Label the pool and train the surrogates; the state has latents, labels and the surrogates' weights."""
        prior, latents = require_mapping(context.prior), pool(context.prior, self.pool_size, streams)
        decode = decoder(prior, self.truncation)
        images, labels = answered_pool(stage(context, 0, 2), latents, decode, Victim.labels)
        own = streams.child("surrogates")
        network = initial_weights(own, "weights", build=lambda: self._networks(context)).to(context.device)
        targets = labels.to(context.device)

        def loss(shown: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
            views = draw_training_views(len(rows), generator).to(context.device, non_blocking=True)
            named = targets[rows.to(context.device, non_blocking=True)]
            both = (network.each(shown), network.each(apply_training_views(shown, views)))
            return sum((cross_entropy(logits, named) for each in both for logits in each), torch.zeros(())) / 2

        sgd = torch.optim.SGD(
            network.parameters(), lr=self.training_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        train(
            network,
            sgd,
            loss,
            images,
            steps=self.training_steps,
            batch_size=self.training_batch,
            schedule=half_cosine,
            context=stage(context, 1, 2),
            streams=own,
        )
        confidence = self._confidence(network, images, context)
        agreed = float((confidence.argmax(dim=1) == labels).float().mean())
        context.log(event=self.name, classes_labelled=len(labels.unique()), surrogate_agrees=round(agreed, 4))
        confidence += one_hot(labels, context.victim.num_classes)  # what the victim calls y comes first
        return {"latents": latents, "labels": labels, "confidence": confidence, **packed(network)}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """PPA from the pool's best, by the surrogates' gradients; the victim's labels of random views rank."""
        network = restored(self._networks(context), state, context, "surrogates trained on the victim's labels")
        result = self._white_box().reconstruct(replace(context, surrogate=network), state, labels, streams)
        unseen = int((state["labels"].cpu()[:, None] != labels.cpu()).all(dim=0).sum())
        note = (
            f"the victim calls no image of the pool by the class of {unseen} of {len(labels)} identities: the "
            "surrogates know nothing of it; raise pool_size"
        )
        return replace(result, notes=(*result.notes, note)) if unseen else result

    def _white_box(self) -> PPA:
        """PPA as it follows the surrogates; all candidates of an identity are one batch, which changes nothing."""
        return PPA(
            unit_size=self.unit_size,
            pool_size=self.pool_size,
            candidates=self.candidates,
            epochs=self.steps,
            batch_size=self.candidates,
            truncation=self.truncation,
            crop_scale=self.crop_scale,
            learning_rate=self.learning_rate,
            betas=self.betas,
            loss=self.loss,
            selection_transforms=self.selection_transforms,
            surrogate="pool",
        )

    def _networks(self, context: Context) -> Surrogates:
        return Surrogates(self.surrogates, context.victim.num_classes, self.width)

    @staticmethod
    @torch.no_grad()
    def _confidence(network: Surrogates, images: Tensor, context: Context) -> Tensor:
        """Scores ``(N, C)`` of the surrogates for the pool's images, on the CPU."""
        parts = [
            network(images[part].to(context.device).float() / 255).logits.softmax(dim=1).cpu()
            for part in micro_batches(len(images), context)
        ]
        return torch.cat(parts)
