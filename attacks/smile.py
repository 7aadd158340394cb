"""SMILE: few scores, by way of a long-tailed surrogate and a search without gradients (CVPR 2025; L1ziang/SMILE).

The victim's scores of a small pool train a surrogate whose experts cope with the classes that the pool hardly shows.
MIRROR's white box follows its gradients from the pool's best codes; from the best of its results an evolution strategy
goes on with the victim's own scores. Released, that search is nevergrad's NGOpt; here it is sep-CMA-ES
(:mod:`mibench.attacks.diagonal_cma`), which needs no further library.

Legend: U identities of a unit, S starts, N points of a generation, K results, W dimension of a code; x are codes in
whitened p-space, ``(P(w) - mean) / std``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State, Victim
from mibench.api.training import initial_weights
from mibench.rng import Streams

from .batching import micro_batches, stage
from .diagnostics import by_twentieth, stacked
from .diagonal_cma import DiagonalCMA
from .final_ranking import robust_confidence
from .initial_selection import pool
from .long_tailed import LEAST, Experts, class_weights, long_tailed_loss
from .mirror_generation import by_fitness
from .mirror_space import CodeSpace, codes_of
from .mirror_w import MirrorWhite
from .rendering import render_images
from .requirements import check_ranges, require_prior
from .surrogate_networks import packed, restored
from .surrogate_training import answered_pool, constant, train


@dataclass(frozen=True, kw_only=True)
class SMILE(Attack):
    """SMILE. The defaults are the released code's, apart from surrogates without public weights and another search."""

    name: ClassVar[str] = "smile"
    access: ClassVar[Access] = Access.SCORES
    budget_setting: ClassVar[str | None] = "generations"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 2500  # released script
    truncation: float = 0.7  # released script: psi at rendering; here at all layers

    experts: int = 3  # released script
    width: int = 32  # ours: of a small network; released: the last layers of a network of public people
    training_steps: int = 2000  # released code: 100 times the pool in batches
    training_batch: int = 128  # released code
    training_rate: float = 1e-3  # released code: Adam
    hard: float = 0.15  # released code: lambda_ce
    diversity: float = 10.0  # released code: lambda_diversity
    batch_weights: bool = False  # ours: each image its class's weight; True: their sum for the batch (released)

    starts: int = 1  # released: the best of the pool; more (ours): the victim is asked which to go on from
    steps: int = 200  # released script: of MIRROR's white box on the surrogate
    learning_rate: float = 0.2  # released script
    kappa: float = 1.0  # released code: bounds of the white box, in standard deviations of p-space

    population: int = 20  # ours: of the search; released: one by one
    generations: int = 50  # released script: 1,000 images
    sigma: float = 0.3  # ours: first step of the search, in standard deviations of p-space; released: 1, in w
    search_kappa: float = 1.7  # released script: bounds of the search
    candidates: int = 1  # released: the search's recommendation; here the best images that were asked about
    selection_transforms: int = 0  # released: none; random views of the final ranking, as PPA

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("experts", "width", "training_steps", "generations", "candidates"),
            positive=("training_rate", "sigma", "search_kappa"),
            not_negative=("hard", "diversity", "selection_transforms"),
        )
        for name, least in (("population", 4), ("training_batch", 2)):
            if getattr(self, name) < least:
                raise MibenchError(f"smile: {name} must be at least {least}, got {getattr(self, name)}")
        if not 1 <= self.starts <= self.pool_size:
            raise MibenchError(f"smile: starts must lie between 1 and pool_size ({self.pool_size}), got {self.starts}")
        if self.candidates > (asked := self.starts + self.population * self.generations):
            raise MibenchError(
                f"smile: candidates ({self.candidates}) are the best of the {asked} images that are asked about",
                cure=f"raise generations ({self.generations})",
            )
        self._white_box()  # refuses what MIRROR refuses

    def planned_preparation(self) -> Queries:
        """Every image of the pool."""
        return Queries(forward=self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """The white box's results, the search, the views of the ranking: steps on the surrogate are no queries."""
        searched = self.starts + self.population * self.generations
        return Queries(forward=identities * (searched + self.candidates * max(self.selection_transforms, 1)))

    def prepare(self, context: Context, streams: Streams) -> State:
        """Ask about the pool and train the surrogate; the state has codes, scores, p-space and the weights."""
        prior = require_prior(context.prior)
        with torch.no_grad():
            codes = codes_of(prior, pool(prior, self.pool_size, streams), context)
        images, scores = answered_pool(stage(context, 0, 2), codes, self._white_box().decoder(prior), Victim.scores)
        scores, own = scores.float(), streams.child("surrogate")
        network = initial_weights(own, "weights", build=lambda: self._network(context)).to(context.device)
        wanted, weights = scores.to(context.device), class_weights(scores).to(context.device)

        def loss(shown: Tensor, rows: Tensor, _: torch.Generator) -> Tensor:
            known = wanted[rows.to(context.device, non_blocking=True)]
            each, terms = network.each(shown), {"hard": self.hard, "diversity": self.diversity}
            return long_tailed_loss(each, known, weights, batch_weights=self.batch_weights, **terms)

        adam = torch.optim.Adam(network.parameters(), lr=self.training_rate)
        steps, size, part = self.training_steps, self.training_batch, stage(context, 1, 2)
        train(network, adam, loss, images, steps=steps, batch_size=size, schedule=constant, context=part, streams=own)
        context.log(event=self.name, classes_named=len(scores.argmax(dim=1).unique()))
        space = CodeSpace.of(prior, codes)
        return {"latents": codes, "confidence": scores, "mean": space.mean, "std": space.std, **packed(network)}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """The white box on the surrogate, then the search on the victim; the best that was asked about is ranked."""
        white, names, own = self._white_box(), labels.tolist(), labels.to(context.device)
        space = white.space(context, state)
        surrogate = restored(self._network(context), state, context, "a surrogate trained on the victim's scores")
        followed = white.reconstruct(replace(context, victim=surrogate), state, labels, streams)
        with torch.no_grad():
            codes = followed.latents.view(len(names), self.starts, -1).to(context.device)
            x = (space.to_p(codes) - space.mean) / space.std.clamp(min=1e-12)
            x, fit = by_fitness(x, self._fitness(context, space, x, own))  # best first
            search = DiagonalCMA(x[:, 0], self.sigma, self.population)
            history: dict[str, list[Tensor]] = {"best": [fit[:, 0].exp()], "sigma": [search.sigma]}
            for generation in range(self.generations):
                drawn = self._normal(names, x.shape[2], generation, streams).to(context.device, non_blocking=True)
                asked = search.ask(drawn).clamp(-self.search_kappa, self.search_kappa)
                scored = self._fitness(context, space, asked, own)
                search.tell(asked, scored)
                x, fit = by_fitness(torch.cat([x, asked], dim=1), torch.cat([fit, scored], dim=1))
                x, fit = x[:, : self.candidates], fit[:, : self.candidates]
                history["best"].append(fit[:, 0].exp())
                history["sigma"].append(search.sigma)
                context.progress(generation + 1, self.generations, "search")
            curves = {**stacked(history), "surrogate_loss": followed.curves["loss"]}
            context.log(event=self.name, identities=names, **by_twentieth(curves))
            finished = space.to_code(space.mean + space.std * x).flatten(0, 1)
            images = render_images(context, finished, white.decoder(require_prior(context.prior)))
            grouped = images.view(len(names), self.candidates, *images.shape[1:])
            confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.candidates),
            confidence=confidence.flatten(),
            latents=finished.float().cpu(),
            curves=curves,
        )

    def _white_box(self) -> MirrorWhite:
        return MirrorWhite(
            unit_size=self.unit_size,
            pool_size=self.pool_size,
            candidates=self.starts,
            truncation=self.truncation,
            kappa=self.kappa,
            steps=self.steps,
            learning_rate=self.learning_rate,
            flip="none",
        )

    def _network(self, context: Context) -> Experts:
        return Experts(self.experts, context.victim.num_classes, self.width)

    def _normal(self, names: list[int], width: int, generation: int, streams: Streams) -> Tensor:
        """Standard normal numbers ``(U, N, W)``, an identity's from its own stream."""
        own = [streams.generator("identity", name, "search", generation) for name in names]
        return torch.stack([torch.randn(self.population, width, generator=generator) for generator in own])

    def _fitness(self, context: Context, space: CodeSpace, x: Tensor, labels: Tensor) -> Tensor:
        """``log p_y`` ``(U, N)`` of points ``(U, N, W)``."""
        decode, flat = self._white_box().decoder(require_prior(context.prior)), x.flatten(0, 1)
        codes, targets = space.to_code(space.mean + space.std * flat), labels.repeat_interleave(x.shape[1])
        scores = [
            context.victim.scores(context.fit(decode(codes[part]))).float().gather(1, targets[part, None])
            for part in micro_batches(len(codes), context)
        ]
        return torch.cat(scores).view(x.shape[:2]).clamp(min=LEAST).log()
