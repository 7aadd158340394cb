"""The differential evolution of C2FMI's second stage (Ye et al., TDSC 2023; released code, ``DE_c2b_5_bin2``).

Legend: U identities, S codes of a start, N of a population, P pairs, W dimension of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.api import Context, Prior
from mibench.rng import Streams

from .mirror_space import codes_of

KEPT = 0.7  # released: share of members in a member that fills the population; the rest is the prior's
WEIGHTS = (0.25, 0.25, 0.5)  # released: of the three members
TAIL, TAIL_LENGTH = 30, 50  # released: last generations, in which differences shrink as (G - t) / 50
FRESH = 3  # released: codes of the prior whose mean is that of a new member
KEEP = 0.5  # released: probability with which a coordinate is not changed


def fitness(scores: Tensor, targets: Tensor) -> Tensor:
    """``p_y`` ``(N,)``, and where it is 0 minus the sum of the scores: of truncated ones, those of other classes.

    Args:
        scores: the victim's ``(N, C)``.
        targets: ``(N,)``.
    """
    own = scores.gather(1, targets[:, None]).squeeze(1)
    return torch.where(own > 0, own, -scores.sum(dim=1))


def extended(start: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
    """Fill a population up to ``N``.

    Args:
        start: ``(U, S, W)``.
        rows: three distinct members of the start for each new one, int64 ``(U, N - S, 3)``.
        fresh: a code of the prior for each, ``(U, N - S, W)``.

    Returns:
        ``(U, N, W)``, the start first.
    """
    flat = rows.flatten(1)[..., None].expand(-1, -1, start.shape[2])
    members = start.gather(1, flat).view(*rows.shape, start.shape[2])
    weights = torch.tensor(WEIGHTS, device=start.device)[:, None]
    return torch.cat([start, KEPT * (weights * members).sum(dim=2) + (1 - KEPT) * fresh], dim=1)


def shrinking(difference: float, generation: int, generations: int) -> float:
    """The factor of differences in a generation (from 0)."""
    left = generations - generation
    return difference if left > TAIL else difference * left / TAIL_LENGTH


def proposals(codes: Tensor, best: Tensor, pairs: Tensor, coins: Tensor, pull: float, difference: float) -> Tensor:
    """A candidate for each member: ``x_i + pull (x_best - x_i) + difference * sum over pairs (x_a - x_b)``, in about
    half of its coordinates.

    Args:
        codes: ``(U, N, W)``.
        best: ``(U, W)``.
        pairs: members of the differences, any of the population, int64 ``(U, N, P, 2)``.
        coins: uniform in [0, 1), ``(U, N, W)``; above one half a coordinate is the candidate's.
        pull, difference: factors.
    """
    drawn = codes.gather(1, pairs.flatten(1)[..., None].expand(-1, -1, codes.shape[2])).view(*pairs.shape, -1)
    differences = (drawn[..., 0, :] - drawn[..., 1, :]).sum(dim=2)
    moved = codes + pull * (best[:, None] - codes) + difference * differences
    return torch.where(coins > KEEP, moved, codes)


def draw_filling(
    prior: Prior, names: list[int], starts: int, count: int, streams: Streams, context: Context
) -> tuple[Tensor, Tensor]:
    """Members of the start ``(U, count, 3)`` and codes of the prior ``(U, count, W)`` that new members are made of, on
    the context's device, an identity's from its own stream."""
    rows, latents = [], []
    for name in names:
        generator = streams.generator("identity", name, "fill")
        rows += [torch.randperm(starts, generator=generator)[:3] for _ in range(count)]
        latents.append(prior.sample(FRESH * count, generator))
    fresh = codes_of(prior, torch.cat(latents), context).view(len(names), count, FRESH, -1).mean(dim=2)
    return torch.stack(rows).view(len(names), count, 3).to(context.device), fresh.to(context.device)


def draw_generation(
    names: list[int], members: int, pairs: int, width: int, generation: int, streams: Streams, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pairs ``(U, N, P, 2)`` and coins ``(U, N, W)`` of a generation on the device, each identity's from its stream."""
    drawn, coins = [], []
    for name in names:
        generator = streams.generator("identity", name, "generation", generation)
        drawn.append(torch.randint(members, (members, pairs, 2), generator=generator))
        coins.append(torch.rand(members, width, generator=generator))
    return torch.stack(drawn).to(device, non_blocking=True), torch.stack(coins).to(device, non_blocking=True)
