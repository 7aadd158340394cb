"""C2FMI: coarse-to-fine inversion by scores (Ye et al., TDSC 2023).

The first stage, coarse, finds codes w near the identity; the second, fine, is differential evolution of w on the
victim's p_y. Published, the first stage follows an embedding network of public people, which no attack is handed here:
by default the codes of the pool with the highest p_y take its place; an embedding of public images without names
(:mod:`mibench.attacks.coarse_stage`) is an option.

Legend: U identities of a unit, S codes of a start, N of a population, K results, W dimension of a code (w, or z without
a mapping network).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MappingPrior, MibenchError, Prior, Queries, Reconstruction, State
from mibench.rng import Streams

from .answers import confidence_in_classes
from .batching import micro_batches, stage
from .coarse_stage import CoarseStage
from .diagnostics import by_twentieth, stacked
from .differential_evolution import draw_filling, draw_generation, extended, fitness, proposals, shrinking
from .final_ranking import robust_confidence
from .initial_selection import image_confidence, pool
from .mirror_generation import by_fitness, spread
from .mirror_space import SLOPE, CodeSpace, codes_of
from .rendering import Decoder, render_images
from .requirements import check_ranges, require_prior
from .surrogate_networks import loaded, packed
from .surrogate_training import answered_pool

COARSE = ("public_images", "width", "embedding_steps", "inverse_steps", "hidden", "coarse", "coarse_steps")


@dataclass(frozen=True, kw_only=True)
class C2FMI(Attack):
    """C2FMI. The defaults are the released code's, with known scores kept and without the first stage."""

    name: ClassVar[str] = "c2fmi"
    access: ClassVar[Access] = Access.SCORES
    budget_setting: ClassVar[str | None] = "generations"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 100_000  # as mirror-b, of whose pool the start is; released: 150,000 labelled public images
    truncation: float = 1.0  # released: none, psi at rendering
    embedding: Literal["none", "public"] = "none"  # ours: the pool's best start; public: the first stage's best
    public_images: int = 10_000  # ours: of the embedding; released: images of 10,575 public people
    width: int = 32  # ours: of the embedding, a small network
    embedding_steps: int = 20_000  # ours
    inverse_steps: int = 15_625  # released code: 20 times the images with scores, in batches of 128
    hidden: int = 4096  # released code: units of the inverse map's layers
    kept_scores: int | None = None  # released code: of the inverse map's input; all, 100 of truncated scores, or 1
    coarse: int = 16  # released code: codes of the first stage
    coarse_steps: int = 20  # released code
    coarse_rate: float = 0.02  # released code: Adam

    starts: int = 10  # released code: best of the first stage
    population: int = 32  # released code
    generations: int = 500  # released code
    pull: float = 0.02  # released code: towards the best
    difference: float = 0.1  # released code: of each pair, shrinking in the last 30 generations
    pairs: int = 4  # released code
    rescore_parents: bool = False  # ours: their scores are known; True: they are shown again (released)
    kappa: float | None = None  # released: no bounds; else as MIRROR's, in standard deviations of p-space
    candidates: int = 1  # released: the best of the last population; more (ours): the best ones
    selection_transforms: int = 0  # released: none; random views of the final ranking, as PPA

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "generations", "pairs", "candidates", *COARSE),
            positive=("truncation", "difference", "coarse_rate", *(("kappa",) if self.kappa is not None else ())),
            not_negative=("pull", "selection_transforms"),
        )
        if not 3 <= self.starts < min(self.population, self.pool_size + 1):
            raise MibenchError(
                "c2fmi: starts must be at least 3, of which a new member is made, below population "
                f"({self.population}) and at most pool_size ({self.pool_size}), got {self.starts}"
            )
        if self.kept_scores is not None and self.kept_scores < 1:
            raise MibenchError(f"c2fmi: kept_scores must be at least 1, or null for all, got {self.kept_scores}")
        if self.embedding != "none" and self.starts > self.coarse:
            raise MibenchError(f"c2fmi: starts ({self.starts}) are the best of the first stage's {self.coarse} codes")
        if self.candidates > self.population:
            raise MibenchError(
                f"c2fmi: candidates ({self.candidates}) are the best of the population",
                cure=f"raise population ({self.population})",
            )

    def planned_preparation(self) -> Queries:
        """Every image of the pool."""
        return Queries(forward=self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """The end of the first stage, what fills the population, a candidate for each member in every generation, the
        views of the ranking."""
        coarse = 0 if self.embedding == "none" else self.coarse
        evolved = self.population * self.generations * (2 if self.rescore_parents else 1)
        ranked = self.candidates * max(self.selection_transforms, 1)
        return Queries(forward=identities * (coarse + self.population - self.starts + evolved + ranked))

    @torch.no_grad()
    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool's codes, the victim's scores of each, and the statistics of p-space."""
        prior = require_prior(context.prior)
        codes = codes_of(prior, pool(prior, self.pool_size, streams), context)
        space, decode, networks = CodeSpace.of(prior, codes), self._decoder(prior), {}
        if self.embedding == "none":
            scores = image_confidence(context, codes, decode, mirrored=False, text="search candidates")
        else:
            images, scores = answered_pool(stage(context, 0, 3), codes, decode, confidence_in_classes)
            networks = packed(self._stage().learn(context, images, scores.float(), streams.child("coarse")))
        return {"latents": codes, "confidence": scores, "mean": space.mean, "std": space.std, **networks}

    @torch.no_grad()
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Evolve a population for every identity; the best of the last one are ranked and returned."""
        prior, names, own = require_prior(context.prior), labels.tolist(), labels.to(context.device)
        slope = SLOPE if isinstance(prior, MappingPrior) else 1.0
        space = CodeSpace(state["mean"].to(context.device), state["std"].to(context.device), slope)
        start, known = self._start(context, state, labels, streams)
        missing = self.population - self.starts
        codes = extended(start, *draw_filling(prior, names, self.starts, missing, streams, context))
        fit = torch.cat([known, self._score(context, codes[:, self.starts :], own)], dim=1)
        history: dict[str, list[Tensor]] = {"best": [fit.amax(dim=1)], "spread": [spread(codes, space)]}
        for generation in range(self.generations):
            width = codes.shape[2]
            drawn = draw_generation(names, self.population, self.pairs, width, generation, streams, context.device)
            best = codes.take_along_dim(fit.argmax(dim=1)[:, None, None], dim=1)[:, 0]
            beta = shrinking(self.difference, generation, self.generations)
            proposed = proposals(codes, best, *drawn, self.pull, beta)
            if self.kappa is not None:
                proposed = proposed.clamp(*space.bounds(self.kappa))
            if self.rescore_parents:
                fit = self._score(context, codes, own)
            scored = self._score(context, proposed, own)
            better = scored > fit
            codes, fit = torch.where(better[..., None], proposed, codes), torch.where(better, scored, fit)
            history["best"].append(fit.amax(dim=1))
            history["spread"].append(spread(codes, space))
            context.progress(generation + 1, self.generations, "evolve")
        curves = stacked(history)
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        finished = by_fitness(codes, fit)[0][:, : self.candidates].flatten(0, 1)
        images = render_images(context, finished, self._decoder(prior))
        grouped = images.view(len(labels), self.candidates, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.candidates),
            confidence=confidence.flatten(),
            latents=finished.float().cpu(),
            curves=curves,
        )

    def _start(self, context: Context, state: State, labels: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:
        """Codes ``(U, S, W)``, best first, and their fitness ``(U, S)``: of the pool, or of the first stage."""
        if self.embedding == "none":
            pooled = torch.stack([fitness(state["confidence"], label.expand(self.pool_size)) for label in labels])
            known, rows = (part[:, : self.starts] for part in pooled.sort(dim=1, descending=True, stable=True))
            return state["latents"][rows].to(context.device), known.to(context.device)
        prior, coarse = require_prior(context.prior), self._stage()
        networks = loaded(coarse.networks(context), state, context)
        with torch.enable_grad():
            codes = coarse.search(networks, context, prior, self._decoder(prior), labels, streams)
        codes, known = by_fitness(codes, self._score(context, codes, labels.to(context.device)))
        return codes[:, : self.starts], known[:, : self.starts]

    def _stage(self) -> CoarseStage:
        trained = self.public_images, self.width, self.embedding_steps, self.inverse_steps, self.hidden
        return CoarseStage(*trained, self.kept_scores, self.coarse, self.coarse_steps, self.coarse_rate)

    def _score(self, context: Context, codes: Tensor, labels: Tensor) -> Tensor:
        """Fitness ``(U, N)`` of codes ``(U, N, W)``."""
        decode, flat = self._decoder(require_prior(context.prior)), codes.flatten(0, 1)
        targets = labels.repeat_interleave(codes.shape[1])
        scores = [
            fitness(context.victim.scores(context.fit(decode(flat[part]))).float(), targets[part])
            for part in micro_batches(len(flat), context)
        ]
        return torch.cat(scores).view(codes.shape[:2])

    def _decoder(self, prior: Prior) -> Decoder:
        if isinstance(prior, MappingPrior):
            return lambda codes: prior.synthesis(prior.truncate(codes, self.truncation))
        return prior.decode
