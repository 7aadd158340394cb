"""PPDG-MI: the generator is tuned to what an attack found (Peng et al., NeurIPS 2024, released code).

A round is PPA: search, descent, ranking. Between rounds the images of a person that the victim is surest of, the
pseudo-private ones, are projected into the generator, and a copy of its synthesis network is tuned to make them. The
next round attacks that person with the tuned copy. Each person begins with the prior's own generator.

Legend: U identities of a unit, K candidates of each, n pseudo-private images, Z and W dimensions of latents and styles.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .generator_tuning import Distance, Tuning, generator_drift, require_tunable
from .initial_selection import pool, pool_confidence
from .losses import identity_loss
from .ppa import PPA
from .priors.stylegan2.prior import StyleGAN2Prior
from .requirements import check_ranges


@dataclass(frozen=True, kw_only=True)
class PPDG(Attack):
    """PPDG-MI on StyleGAN2. The defaults are the released configuration for CelebA with FFHQ, pairwise (PW)."""

    name: ClassVar[str] = "ppdg"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: people whose first round is one batch; no person depends on another
    rounds: int = 2  # released configuration
    pool_size: int = 500  # released configuration: search of the first round, shared by all people
    later_pool_size: int = 500  # released configuration: search of each later round, for each person
    candidates: int = 100  # released configuration
    steps: int = 70  # released configuration: of each round
    truncation: float = 0.5  # as PPA
    learning_rate: float = 0.005  # as PPA
    betas: tuple[float, float] = (0.1, 0.1)  # as PPA
    loss: str = "poincare"  # as PPA
    crop_scale: tuple[float, float] = (0.9, 1.0)  # as PPA
    selection_transforms: int = 100  # released configuration: random views of the ranking of each round
    pseudo_private: int = 5  # released code: PW; CT and MMD 10
    distance: Distance = "pairs"  # released: PW; transport: CT, mmd: MMD
    project_draws: int = 600  # released code: latents whose mean style a projection begins at
    project_steps: int = 300  # released code: PW; CT 150, MMD 100
    project_rate: float = 0.01  # released code
    project_noise: float = 0.05  # released code, in the standard deviation of styles
    realism_weight: float = 0.1  # released code: of -log D in the projection
    tune_steps: int = 150  # released code: PW, MMD; CT 25
    tune_rate: float = 3e-4  # released code

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "rounds", "candidates", "steps", "pseudo_private", "project_steps"),
            positive=("truncation", "learning_rate", "project_rate", "tune_rate"),
            not_negative=("selection_transforms", "project_noise", "realism_weight"),
        )
        check_ranges(self, at_least_one=("tune_steps", "project_draws"))
        for setting in ("pool_size", "later_pool_size"):
            if self.candidates > getattr(self, setting):
                raise MibenchError(
                    f"ppdg: candidates ({self.candidates}) are chosen from the pool",
                    cure=f"raise {setting} ({getattr(self, setting)})",
                )
        if self.pseudo_private > self.candidates:
            raise MibenchError(
                f"ppdg: pseudo_private ({self.pseudo_private}) are the best of the candidates",
                cure=f"raise candidates ({self.candidates})",
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise MibenchError(f"ppdg: crop_scale must be two areas in (0, 1], smaller first, got {self.crop_scale}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"ppdg: betas must lie in [0, 1), got {self.betas}")

    @property
    def base(self) -> PPA:
        """The attack of a round."""
        shared = {field.name for field in fields(self)} & {field.name for field in fields(PPA)}
        values = {name: getattr(self, name) for name in shared}
        return PPA(**values, epochs=self.steps, batch_size=self.candidates)

    def planned_preparation(self) -> Queries:
        """Every image of the first round's pool and its mirror image."""
        return self.base.planned_preparation()

    def planned_queries(self, identities: int) -> Queries:
        """What PPA asks, in every round, and the pool of each later round. Tuning asks nothing."""
        each = self.base.planned_queries(identities)
        searched = 2 * self.later_pool_size * identities * (self.rounds - 1)
        return Queries(forward=self.rounds * each.forward + searched, backward=self.rounds * each.backward)

    def prepare(self, context: Context, streams: Streams) -> State:
        """The first round's pool, and mean and standard deviation of styles."""
        prior = require_tunable(context.prior, self.name)
        drawn = prior.sample(self.project_draws, streams.generator("styles"))
        with torch.no_grad():
            w = prior.mapping(drawn).float()
        spread = (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt()
        return {**self.base.prepare(context, streams), "w_mean": w.mean(dim=0).cpu(), "w_spread": spread.cpu()}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """The first round of all people at once, then each person's tuning and later rounds."""
        prior = require_tunable(context.prior, self.name)
        first = self._round(context, prior, state, labels, 0, streams)
        people = [self._person(context, prior, state, part, streams) for part in _by_person(first, self.candidates)]
        return Reconstruction(
            images=torch.cat([one.images for one in people]),
            labels=torch.cat([one.labels for one in people]),
            confidence=torch.cat([one.confidence for one in people]),
            latents=torch.cat([one.latents for one in people]),  # styles of each person's own generator
            curves={name: torch.cat([one.curves[name] for one in people]) for name in people[0].curves},
        )

    def _person(
        self, context: Context, prior: StyleGAN2Prior, state: State, found: Reconstruction, streams: Streams
    ) -> Reconstruction:
        """Tune, search and attack again, from what the first round found of one person."""
        label, own, curves = found.labels[:1].to(context.device), prior, [found.curves]
        drifts, floors = [torch.zeros(1)], [self._floor(state, label)]  # of each round's generator
        tuning: list[Tensor] = []
        for number in range(1, self.rounds):
            own, losses = self._tuned(context, own, state, found, number, streams)
            drifts.append(generator_drift(context, prior, own, self.truncation).view(1))
            tuning.append(losses.cpu())
            searched = self._searched(context, own, streams)
            floors.append(self._floor(searched, label))
            found = self._round(context, own, searched, label, number, streams)
            curves.append(found.curves)
        together = {name: torch.cat([one[name] for one in curves], dim=1) for name in curves[0]}
        together |= {"generator_drift": torch.cat(drifts)[None], "pool_confidence": torch.cat(floors)[None]}
        if tuning:
            together |= {"L_tuning": torch.cat(tuning)[None]}
        return replace(found, curves=together)

    def _searched(self, context: Context, prior: StyleGAN2Prior, streams: Streams) -> State:
        """The pool under a tuned generator."""
        latents, there = pool(prior, self.later_pool_size, streams), replace(context, prior=prior)
        confidence = pool_confidence(there, latents, self.truncation, text="search again")
        return {name: one.to(context.device) for name, one in (("latents", latents), ("confidence", confidence))}

    def _floor(self, state: State, label: Tensor) -> Tensor:
        """Mean confidence ``(1,)`` in what is optimised next, had each round searched the same latents."""
        same = state["confidence"][: min(self.pool_size, self.later_pool_size), label]
        return same.topk(self.candidates, dim=0).values.mean(dim=0).cpu()

    def _round(
        self, context: Context, prior: StyleGAN2Prior, state: State, labels: Tensor, number: int, streams: Streams
    ) -> Reconstruction:
        def log(**record: object) -> None:
            context.log(**{**record, "event": self.name, "round": number})

        there = replace(context, prior=prior, log=log)
        return self.base.reconstruct(there, state, labels, streams.child("round", number))

    def _tuned(
        self, context: Context, prior: StyleGAN2Prior, state: State, found: Reconstruction, step: int, streams: Streams
    ) -> tuple[StyleGAN2Prior, Tensor]:
        """The prior tuned to the images that the victim is surest of, and the losses of the tuning."""
        best = found.confidence.topk(self.pseudo_private).indices
        styles = prior.truncate(found.latents[best].to(context.device), self.truncation)
        with torch.no_grad():
            images = prior.synthesis(styles)
        shape = (self.project_steps, *styles.shape)
        drawn = torch.randn(shape, generator=streams.generator("identity", int(found.labels[0]), "projection", step))
        noise = drawn.to(context.device) * state["w_spread"].to(context.device)
        tuning = Tuning(**{field.name: getattr(self, field.name) for field in fields(Tuning)})
        pivots = tuning.project(context, prior, images, state["w_mean"].to(context.device), noise)
        return tuning.tune(context, prior, pivots, images)


def _by_person(found: Reconstruction, count: int) -> list[Reconstruction]:
    """A unit's reconstruction as one of each person, with ``count`` images each."""
    return [
        Reconstruction(
            images=found.images[rows],
            labels=found.labels[rows],
            confidence=found.confidence[rows],
            latents=found.latents[rows],
            curves={name: curve[number : number + 1] for name, curve in found.curves.items()},
        )
        for number, rows in enumerate(torch.arange(len(found.labels)).split(count))
    ]
