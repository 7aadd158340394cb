"""What both MIRROR attacks share (An et al., NDSS 2022): pool, start, p-space with its bounds, and final selection.

The white and the black box differ in their loop and in nothing else, so a black box that succeeds where the white box
fails speaks of hidden gradients.

p-space is w before the last activation of the mapping network: P(w) = LeakyReLU_5(w), back by LeakyReLU_0.2, in which w
is close to normal. A prior without a mapping network has none: its latents z are searched as they are.

Legend: U identities of a unit, K images of each, N of the pool, C classes, W dimension of a code (w, or z without a
mapping network).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from mibench.api import Attack, Context, MappingPrior, MibenchError, Prior, Queries, Reconstruction, State
from mibench.rng import Streams

from .answers import Answered, confidence_in_classes
from .batching import micro_batches
from .final_ranking import robust_confidence
from .initial_selection import choose, image_confidence, pool
from .rendering import Decoder, render_images
from .requirements import check_ranges, require_prior

SLOPE = 0.2  # of StyleGAN2's activation; its gain of sqrt 2 may stay, both maps are positively homogeneous


@dataclass(frozen=True)
class CodeSpace:
    """Statistics of the pool in p-space.

    Attributes:
        mean, std: ``(W,)`` of P(w) over the pool, std divided by N.
        slope: of the activation between p and w; 1 where there is none.
    """

    mean: Tensor
    std: Tensor
    slope: float = SLOPE

    @classmethod
    def of(cls, prior: Prior, codes: Tensor) -> CodeSpace:
        """The space of a pool's codes ``(N, W)``; latents z are standard normal by construction."""
        if not isinstance(prior, MappingPrior):
            return cls(torch.zeros(codes.shape[1]), torch.ones(codes.shape[1]), 1.0)
        p = leaky_relu(codes, 1 / SLOPE).double()
        return cls(p.mean(dim=0).float(), p.std(dim=0, correction=0).float())

    def to_p(self, codes: Tensor) -> Tensor:
        """P(w) of codes ``(..., W)``."""
        return leaky_relu(codes, 1 / self.slope)

    def to_code(self, p: Tensor) -> Tensor:
        """The codes of ``p`` ``(..., W)``."""
        return leaky_relu(p, self.slope)

    def bounds(self, kappa: float) -> tuple[Tensor, Tensor]:
        """Least and greatest code ``(W,)``: ``mean -+ kappa std`` of p-space, one bound per coordinate."""
        return self.to_code(self.mean - kappa * self.std), self.to_code(self.mean + kappa * self.std)


@dataclass(frozen=True, kw_only=True)
class Mirror(Attack):
    """What MIRROR does before and after its loop. The defaults are the released scripts'."""

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 100_000  # released scripts
    mirror_images: bool = False  # released: one image of each latent; True: its mirror image as well, as PPA
    candidates: int = 8  # images of each identity that are ranked and returned; released: a batch (white), 1 (black)
    truncation: float = 0.7  # released: psi at rendering; here at all layers, released at the first 8 of 14
    kappa: float = 1.0  # released: bounds of a code in standard deviations of p-space
    selection_transforms: int = 0  # released: none; random views of the final ranking, as PPA

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "candidates"),
            positive=("truncation", "kappa"),
            not_negative=("selection_transforms",),
        )
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"{self.name}: candidates ({self.candidates}) start in the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )

    def planned_preparation(self) -> Queries:
        """Every image of the pool, with ``mirror_images`` twice."""
        return Queries(forward=self.pool_size * (2 if self.mirror_images else 1))

    def planned_ranking(self, identities: int) -> int:
        """Images that the final selection shows."""
        return identities * self.candidates * max(self.selection_transforms, 1)

    @torch.no_grad()
    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool's codes, the victim's confidence in every class for each, and the statistics of p-space."""
        prior = require_prior(context.prior)
        codes = codes_of(prior, pool(prior, self.pool_size, streams), context)
        confidence = image_confidence(
            context,
            codes,
            self.decoder(prior),
            mirrored=self.mirror_images,
            text="search candidates",
            answer=self.answers(),
        )
        space = CodeSpace.of(prior, codes)
        return {"latents": codes, "confidence": confidence, "mean": space.mean, "std": space.std}

    def answers(self) -> Answered:
        """How the victim's confidence is read while it is searched."""
        return confidence_in_classes

    def space(self, context: Context, state: State) -> CodeSpace:
        """p-space of the pool, on the run's device."""
        slope = SLOPE if isinstance(context.prior, MappingPrior) else 1.0
        return CodeSpace(state["mean"].to(context.device), state["std"].to(context.device), slope)

    def start(self, state: State, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` codes ``(U, count, W)`` of the pool with the highest p_y, best first, and their p_y.

        They are not clipped. Equal confidences keep the order of the pool.
        """
        confidence = state["confidence"][:, labels].sort(dim=0, descending=True, stable=True).values[:count].T
        return choose(state, labels, count, stable=True), confidence

    def decoder(self, prior: Prior) -> Decoder:
        """From codes ``(N, W)`` to the prior's images; truncation belongs to rendering, never to a code."""
        if isinstance(prior, MappingPrior):
            return lambda codes: prior.synthesis(prior.truncate(codes, self.truncation))
        return prior.decode

    def finish(
        self,
        context: Context,
        codes: Tensor,
        labels: Tensor,
        streams: Streams,
        curves: dict[str, Tensor],
        notes: tuple[str, ...] = (),
    ) -> Reconstruction:
        """Render codes ``(U, K, W)``, rank them by p_y under random views, hand them over."""
        flat = codes.detach().flatten(0, 1)
        images = render_images(context, flat, self.decoder(require_prior(context.prior)))
        grouped = images.view(*codes.shape[:2], *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(codes.shape[1]),
            confidence=confidence.flatten(),
            latents=flat.float().cpu(),
            curves=curves,
            notes=notes,
        )


def codes_of(prior: Prior, latents: Tensor, context: Context) -> Tensor:
    """Codes ``(N, W)`` of latents ``(N, Z)``, float32 on the CPU: w before truncation, or the latents themselves."""
    if not isinstance(prior, MappingPrior):
        return latents
    with torch.autocast(context.device.type, enabled=False):
        parts = [prior.mapping(latents[part].to(context.device)) for part in micro_batches(latents.shape[0], context)]
    return torch.cat([part.float().cpu() for part in parts])
