"""MIRROR with scores only (An et al., NDSS 2022): a genetic algorithm.

The population starts as the pool's best codes w of the identity. In each generation the fittest survives; the others
are children of parents drawn by their probability, crossed coordinate by coordinate, mutated in p-space and clipped to
its bounds. Pool, start, bounds and selection are those of the white box (:mod:`mibench.attacks.mirror_space`).

Legend: U identities of a unit, N codes of a population, M = N - 1 children, W dimension of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .answers import Answered
from .batching import micro_batches
from .diagnostics import by_twentieth, stacked
from .mirror_generation import Crossover, Draws, by_fitness, children, spread
from .mirror_space import Mirror
from .neighbours import averaged_answers
from .requirements import check_ranges, require_prior

LEAST = 1e-30  # of a probability before its logarithm
COLLAPSED = 0.05  # spread of a population, in standard deviations of p-space, below which it explores nothing


@dataclass(frozen=True, kw_only=True)
class MirrorBlack(Mirror):
    """MIRROR, black box. The defaults are the released scripts', except the crossover and the mutation's noise."""

    name: ClassVar[str] = "mirror-b"
    access: ClassVar[Access] = Access.SCORES
    budget_setting: ClassVar[str | None] = "generations"
    later_settings: ClassVar[tuple[str, ...]] = ("neighbours",)

    population: int = 1000  # released scripts (argument default 100)
    generations: int = 100  # released code
    stop_confidence: float | None = 0.95  # released: end when the elite's p_y reaches it; None: never
    crossover: Crossover = "probability"  # ours: share p_A/(p_A + p_B); released: of the log-probabilities
    mutation_probability: float = 0.1  # released code, per coordinate
    mutation_size: float = 0.1  # released code, in standard deviations of p-space
    shared_noise: bool = False  # ours: noise for each child; True: one vector per generation for all (released)
    rescore_elite: bool = False  # ours: its score is known; True: it is shown again (released; for answers with noise)
    neighbours: int = 1  # ours, for answers with noise: images whose scores are averaged, the image itself among them

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, at_least_one=("generations", "neighbours"), not_negative=("mutation_size",))
        if not 2 <= self.population <= self.pool_size:
            raise MibenchError(
                f"mirror-b: population must lie between 2 and pool_size ({self.pool_size}), got {self.population}"
            )
        if self.candidates > self.population:
            raise MibenchError(
                f"mirror-b: candidates ({self.candidates}) are the best of the population",
                cure=f"raise population ({self.population})",
            )
        if not 0 <= self.mutation_probability <= 1:
            raise MibenchError(f"mirror-b: mutation_probability is a share in [0, 1], got {self.mutation_probability}")
        if self.stop_confidence is not None and not self.stop_confidence > 0:
            raise MibenchError(
                f"mirror-b: stop_confidence must be a probability above 0, or null to never stop, got "
                f"{self.stop_confidence}"
            )

    @property
    def stops_early(self) -> bool:
        """An identity whose elite reaches ``stop_confidence`` is queried no more."""
        return self.stop_confidence is not None and self.stop_confidence <= 1

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its neighbours."""
        return Queries(forward=self.neighbours * super().planned_preparation().forward)

    def answers(self) -> Answered:
        """The mean over neighbours."""
        return averaged_answers(self.neighbours)

    def planned_queries(self, identities: int) -> Queries:
        """The children of every generation (and the elite, if it is shown again), with their neighbours, then the
        views of the selection.

        The most that a unit can take: with ``stop_confidence`` it may take less.
        """
        shown = self.neighbours * (self.population - (0 if self.rescore_elite else 1))
        return Queries(forward=identities * self.generations * shown + self.planned_ranking(identities))

    @torch.no_grad()
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Breed a population for every identity; the best of the last one are ranked and returned."""
        space, own = self.space(context, state), labels.to(context.device)
        codes, confidence = (part.to(context.device, copy=True) for part in self.start(state, labels, self.population))
        fitness = confidence.clamp(min=LEAST).log()  # (U, N), best first
        history: dict[str, list[Tensor]] = {"elite_confidence": [fitness[:, 0].exp()], "spread": [spread(codes, space)]}
        used = 0
        for generation in range(self.generations):
            running = self._running(fitness)  # numbers of the identities that go on; the others are left as they are
            if len(running):
                draws = self._draws(own[running].tolist(), codes.shape[2], generation, streams).to(context.device)
                elders, fit = codes[running], fitness[running]
                bred = children(elders, fit, draws, space, self.kappa, self.crossover, self._mutation)
                population = torch.cat([elders[:, :1], bred], dim=1)
                shown = population if self.rescore_elite else bred
                scored = self._fitness(context, shown, own[running])
                known = fit[:, : population.shape[1] - shown.shape[1]]  # the elite's, unless it was shown again
                codes[running], fitness[running] = by_fitness(population, torch.cat([known, scored], dim=1))
                used += self.neighbours * scored.numel()
            history["elite_confidence"].append(fitness[:, 0].exp())
            history["spread"].append(spread(codes, space))
            context.progress(generation + 1, self.generations, "breed")
        curves = stacked(history)
        context.log(event=self.name, identities=labels.tolist(), images=used, **by_twentieth(curves))
        notes = tuple(self._notes(used, curves, len(labels)))
        return self.finish(context, codes[:, : self.candidates], labels, streams, curves, notes)

    @property
    def _mutation(self) -> tuple[float, float]:
        return self.mutation_probability, self.mutation_size

    def _running(self, fitness: Tensor) -> Tensor:
        if self.stop_confidence is None:
            return torch.arange(len(fitness), device=fitness.device)
        return (fitness[:, 0].exp() < self.stop_confidence).nonzero().flatten()

    def _draws(self, names: list[int], width: int, generation: int, streams: Streams) -> Draws:
        """An identity's numbers come from its own stream, whichever others are still running."""
        count, noises = self.population - 1, 1 if self.shared_noise else self.population - 1
        shapes = ((2 * count,), (count, width), (count, width), (noises, width))
        own = [streams.generator("identity", name, "generation", generation) for name in names]
        each = [[torch.rand(shape, generator=generator) for shape in shapes] for generator in own]
        return Draws(*(torch.stack(drawn) for drawn in zip(*each, strict=True)))

    def _fitness(self, context: Context, codes: Tensor, labels: Tensor) -> Tensor:
        """``log p_y`` ``(U, N)`` of codes ``(U, N, W)``: one view, no flip."""
        decode, answer, flat = self.decoder(require_prior(context.prior)), self.answers(), codes.flatten(0, 1)
        targets = labels.repeat_interleave(codes.shape[1])
        scores = [
            answer(context.victim, context.fit(decode(flat[part]))).float().gather(1, targets[part, None])
            for part in micro_batches(flat.shape[0], context)
        ]
        return torch.cat(scores).view(codes.shape[:2]).clamp(min=LEAST).log()

    def _notes(self, used: int, curves: dict[str, Tensor], identities: int) -> list[str]:
        notes = []
        planned = self.planned_queries(identities).forward - self.planned_ranking(identities)
        if used < planned:
            notes.append(
                f"stopped early, at an elite's confidence of {self.stop_confidence}: {used:,} of {planned:,} planned "
                "images of the generations were shown"
            )
        collapsed = int((curves["spread"][:, -1] < COLLAPSED).sum())
        if collapsed:
            notes.append(f"the populations of {collapsed} of {identities} identities collapsed; raise mutation_size")
        return notes
