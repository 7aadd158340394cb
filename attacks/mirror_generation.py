"""One generation of MIRROR's genetic algorithm (An et al., NDSS 2022): selection, crossover, mutation in p-space.

Legend: U identities, N codes of a population, M = N - 1 children, W dimension of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .mirror_space import CodeSpace

Crossover = Literal["probability", "released"]


@dataclass(frozen=True)
class Draws:
    """Uniform numbers in [0, 1) of one generation: parents ``(U, 2 M)``, crossover and mutation ``(U, M, W)``, noise
    ``(U, M, W)``, or ``(U, 1, W)`` for all children."""

    parents: Tensor
    crossover: Tensor
    mutation: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same numbers elsewhere: they are drawn on the CPU."""
        return Draws(*(drawn.to(device) for drawn in vars(self).values()))


def children(
    codes: Tensor,
    fitness: Tensor,
    draws: Draws,
    space: CodeSpace,
    kappa: float,
    crossover: Crossover,
    mutation: tuple[float, float],
) -> Tensor:
    """The next generation without its elite, ``(U, M, W)``.

    Args:
        codes: ``(U, N, W)``, best first.
        fitness: their ``log p_y`` ``(U, N)``.
        draws: the generation's random numbers.
        space: p-space, in which codes mutate.
        kappa: bounds in its standard deviations.
        crossover: how a child's share of its first parent follows from both parents' fitness.
        mutation: probability per coordinate; size in standard deviations.
    """
    cumulative = fitness.double().softmax(dim=1).cumsum(dim=1)
    drawn = draws.parents.double() * cumulative[:, -1:]
    parents = torch.searchsorted(cumulative, drawn, right=True).clamp(max=codes.shape[1] - 1)  # the first above it
    first, second = parents.chunk(2, dim=1)
    share = share_of_first(fitness.gather(1, first), fitness.gather(1, second), crossover)
    a, b = (codes.gather(1, rows[..., None].expand(-1, -1, codes.shape[2])) for rows in (first, second))
    child = torch.where(draws.crossover < share[..., None], a, b)
    probability, size = mutation
    step = size * space.std * (2 * draws.noise - 1)
    mutated = space.to_p(child) + (draws.mutation < probability) * step
    low, high = space.bounds(kappa)
    return space.to_code(mutated).clamp(low, high)


def share_of_first(first: Tensor, second: Tensor, crossover: Crossover) -> Tensor:
    """The share of coordinates that a child takes from its first parent, from both parents' ``log p_y``.

    ``probability``: ``p_A / (p_A + p_B)``. ``released``: ``log p_A / (log p_A + log p_B)``, in which the fitter parent
    gets the smaller share; one half where both are certain.
    """
    if crossover == "probability":
        return (first - second).sigmoid()
    return torch.nan_to_num(first / (first + second), nan=0.5)


def by_fitness(codes: Tensor, fitness: Tensor) -> tuple[Tensor, Tensor]:
    """Codes ``(U, N, W)`` and fitness ``(U, N)``, the fittest first; equals keep their order, the elite is first."""
    fitness, order = fitness.sort(dim=1, descending=True, stable=True)
    return codes.gather(1, order[..., None].expand_as(codes)), fitness


def spread(codes: Tensor, space: CodeSpace) -> Tensor:
    """Mean standard deviation of populations ``(U, N, W)`` in p-space, in those of the pool: ``(U,)``."""
    return (space.to_p(codes).std(dim=1, correction=0) / space.std.clamp(min=1e-12)).mean(dim=1)
