"""BREP-MI: boundary-repelling inversion by labels alone (Kahla et al., CVPR 2022, arXiv 2203.01925).

A point starts where the victim names the class. In each step the victim labels points on a sphere around it; where
nearly all are of the class the sphere grows, and the point moves away from those that are not. So it drifts to the
middle of the class's region, and the largest sphere that it fits measures how far it got.

Points are latents z of the prior; with a mapping network, whitened p-space of MIRROR, ``x = (P(w) - mean) / std``: the
mapping network normalises z, so that a radius in z loses its meaning.

Legend: U identities of a unit, R restarts of each, M = U R points (or those of them that still run), N directions, W
dimension of a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MappingPrior, MibenchError, Prior, Queries, Reconstruction, State
from mibench.rng import Streams

from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .initial_selection import pool
from .mirror_space import SLOPE, CodeSpace, codes_of
from .rendering import Decoder, render_images
from .requirements import check_ranges, require_prior
from .sphere import Walk, directions, first_of_class, labels_of


@dataclass(frozen=True, kw_only=True)
class BREP(Attack):
    """BREP-MI. The defaults are the released configuration, except that rejected steps count and steps are bounded."""

    name: ClassVar[str] = "brep"
    access: ClassVar[Access] = Access.LABELS
    prior: ClassVar[str | None] = "gmi"
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 5000  # ours: images that are labelled for starts; released: until every label was seen
    restarts: int = 1  # released code: points of each identity, all of them results
    directions: int = 32  # released configuration: N
    steps: int = 10_000  # ours: the most; released: no upper limit
    patience: int | None = 1000  # released configuration: counted steps without growth after which a point ends
    radius: float | None = None  # the first; None: 0.2 sqrt(W), released: 2 at W = 100
    growth: float = 1.3  # released configuration
    growth_share: float = 0.75  # released code: grows where (inside - outside) / N exceeds it
    max_radius: float | None = None  # a point that reaches it ends; PPDG-MI: 16.3; None: never (released)
    box: float | None = None  # points lie in [-box, box]; None: 1.5 for z (released), 2 for p-space (ours)
    repulsion_only: bool = True  # released configuration; False: attraction by the points inside as well
    step: Literal["released", "normalised"] = (
        "released"  # normalised (ours): half of the step length, whatever is inside
    )
    rejected: Literal["counted", "free"] = (
        "counted"  # ours; free (released): steps that leave the class are not counted
    )
    result: Literal["last_growth", "last"] = "last_growth"  # released; last: where a point ended
    truncation: float = 1.0  # ours: psi at rendering, of priors with a mapping network
    selection_transforms: int = (
        5  # ours: random views of the ranking, by the share still called so; 0: the image itself
    )

    def __post_init__(self) -> None:
        optional = {"patience": self.patience, "radius": self.radius, "max_radius": self.max_radius, "box": self.box}
        given = tuple(name for name, value in optional.items() if value is not None)
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "restarts", "directions", "steps"),
            positive=(*given, "truncation"),
            not_negative=("selection_transforms",),
        )
        if not 1 < self.growth < math.inf:
            raise MibenchError(f"brep: growth multiplies the radius and must be above 1, got {self.growth}")
        if not 0 <= self.growth_share < 1:
            raise MibenchError(f"brep: growth_share must lie in [0, 1), got {self.growth_share}")

    @property
    def stops_early(self) -> bool:
        """A point without growth for ``patience`` steps, or at ``max_radius``, is asked about no more."""
        return self.max_radius is not None or (self.patience is not None and self.patience < self.steps)

    def planned_preparation(self) -> Queries:
        """Every image of the pool."""
        return Queries(forward=self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """In every step the sphere and the point that is moved to, then the views of the ranking: the most."""
        return Queries(forward=identities * self.restarts * self._shown(self.steps, 1))

    def _shown(self, steps: int, ranked: int) -> int:
        return steps * (self.directions + 1) + ranked * max(self.selection_transforms, 1)

    @torch.no_grad()
    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool's points, clamped to the box, with the victim's label of each."""
        prior = require_prior(context.prior)
        codes = codes_of(prior, pool(prior, self.pool_size, streams), context)
        space = CodeSpace.of(prior, codes)
        bound = self._box(prior)
        points = ((space.to_p(codes) - space.mean) / space.std.clamp(min=1e-12)).clamp(-bound, bound)
        decode = self._decoder(prior, space.mean.to(context.device), space.std.to(context.device))
        labels = labels_of(context, points.to(context.device), decode, "label the pool").cpu()
        return {"points": points, "labels": labels, "mean": space.mean, "std": space.std}

    @torch.no_grad()
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Walk from every start of every identity; ended points stay where they are."""
        prior, names = require_prior(context.prior), labels.tolist()
        decode = self._decoder(prior, state["mean"].to(context.device), state["std"].to(context.device))
        start, reached = first_of_class(state["points"].cpu(), state["labels"].cpu(), labels.cpu(), self.restarts)
        targets = labels.to(context.device).repeat_interleave(self.restarts)
        first = self.radius or 0.2 * math.sqrt(start.shape[2])
        walk = Walk(start.flatten(0, 1).to(context.device), first)
        history: dict[str, list[Tensor]] = {"radius": [], "inside": [], "accepted": []}
        used = 0
        for step in range(self.steps):
            running = walk.running(self.patience, self.max_radius)
            if len(running):
                rows = running.tolist()
                running = running.to(context.device, non_blocking=True)
                x, r = walk.x[running], walk.radius[running]
                v = directions(self, names, rows, x.shape[1], step, streams)  # (M, N, W)
                v = v.to(context.device, non_blocking=True)
                sphere = (x[:, None] + r[:, None, None] * v).flatten(0, 1)
                named = labels_of(context, sphere, decode).view(len(running), -1)
                sign = torch.where(named == targets[running, None], 1.0, -1.0)  # (M, N)
                grown = sign.sum(dim=1) > self.growth_share * self.directions
                new = torch.where(grown, r * self.growth, r)
                pull = (sign - 1) / 2 if self.repulsion_only else sign
                d = (r / new)[:, None] * (pull[:, :, None] * v).mean(dim=1)
                if self.step == "normalised":
                    d = 0.5 * torch.nn.functional.normalize(d, dim=1)
                bound = self._box(prior)
                moved = (x + (r / 3).clamp(max=3)[:, None] * d).clamp(-bound, bound)
                accepted = labels_of(context, moved, decode) == targets[running]
                walk.take(running, moved, new, grown, accepted, count_rejected=self.rejected == "counted")
                walk.inside[running], walk.accepted[running] = (sign > 0).float().mean(dim=1), accepted.float()
                used += len(running) * (self.directions + 1)
            for name, values in (("radius", walk.radius), ("inside", walk.inside), ("accepted", walk.accepted)):
                history[name].append(values.view(len(names), -1).mean(dim=1))
            context.progress(step + 1, self.steps, "walk")
        curves = stacked(history)
        context.log(event=self.name, identities=names, images=used, **by_twentieth(curves))
        found = walk.grown_at if self.result == "last_growth" else walk.x
        return self._result(context, decode, found, walk, labels, streams, curves, self._notes(walk, reached, used))

    def _result(
        self,
        context: Context,
        decode: Decoder,
        found: Tensor,
        walk: Walk,
        labels: Tensor,
        streams: Streams,
        curves: dict[str, Tensor],
        notes: tuple[str, ...],
    ) -> Reconstruction:
        images = render_images(context, found, decode)
        grouped = images.view(len(labels), self.restarts, *images.shape[1:])
        share = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms).flatten()
        growth = (walk.radius / walk.first).log().float().cpu()
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.restarts),
            confidence=torch.where(share > 0, share + growth, 0.0),
            latents=found.float().cpu(),
            curves=curves,
            notes=notes,
        )

    def _notes(self, walk: Walk, reached: Tensor, used: int) -> tuple[str, ...]:
        notes, planned = [], len(walk.x) * self._shown(self.steps, 0)
        if used < planned:
            notes.append(f"stopped early: {used:,} of {planned:,} planned images of the steps were shown")
        if missing := int((~reached).sum()):
            notes.append(
                f"the victim calls no image of the pool by the class of {missing} of {len(reached)} identities: they "
                "start from other images, at confidence 0 unless a step reaches the class; raise pool_size"
            )
        if still := int((walk.radius == walk.first).sum()):
            notes.append(f"{still} of {len(walk.x)} points never grew, which the released code counts as failures")
        return tuple(notes)

    def _box(self, prior: Prior) -> float:
        return self.box or (2.0 if isinstance(prior, MappingPrior) else 1.5)

    def _decoder(self, prior: Prior, mean: Tensor, std: Tensor) -> Decoder:
        """From points ``(N, W)`` to the prior's images."""
        if not isinstance(prior, MappingPrior):
            return prior.decode
        space = CodeSpace(mean, std, SLOPE)
        return lambda x: prior.synthesis(prior.truncate(space.to_code(mean + std * x), self.truncation))
