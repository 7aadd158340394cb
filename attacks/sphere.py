"""BREP-MI's points: where they begin, in which directions they look, and what is known of each.

Legend: U identities of a unit, R restarts of each, M = U R points, W dimension of a point.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mibench.api import Context
from mibench.rng import Streams

from .batching import micro_batches
from .rendering import Decoder


class Spheres(Protocol):
    """Settings that say how many directions are looked at."""

    @property
    def directions(self) -> int: ...

    @property
    def restarts(self) -> int: ...


def directions(
    attack: Spheres, names: list[int], running: list[int], width: int, step: int, streams: Streams
) -> Tensor:
    """Directions ``(M, N, W)`` of length 1 for points number ``running``, each restart's from a stream of its own."""
    drawn = []
    for row in running:
        generator = streams.generator("identity", names[row // attack.restarts], row % attack.restarts, step)
        drawn.append(torch.randn(attack.directions, width, generator=generator))
    return torch.nn.functional.normalize(torch.stack(drawn), dim=2)


def labels_of(context: Context, points: Tensor, decode: Decoder, text: str | None = None) -> Tensor:
    """The victim's label of each point ``(M,)``; ``text`` is for the progress bar."""
    named = []
    for part in micro_batches(len(points), context):
        named.append(context.victim.labels(context.fit(decode(points[part]))))
        if text is not None:
            context.progress(part.stop, len(points), text)
    return torch.cat(named)


def first_of_class(points: Tensor, named: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` points of a pool that the victim calls by the class of each identity, in the pool's order.

    Where there are fewer, they are taken again in turn; where there is none, points of the pool in its order.

    Args:
        points: ``(P, W)``.
        named: the victim's label of each, ``(P,)``.
        labels: ``(U,)``.
        count: ``R``.

    Returns:
        starts ``(U, R, W)``, and which identities have one of their own, bool ``(U,)``.
    """
    own = [(named == label).nonzero().flatten() for label in labels]
    rows = [hits if len(hits) else torch.arange(len(points)) for hits in own]
    chosen = torch.stack([hits[torch.arange(count) % len(hits)] for hits in rows])
    return points[chosen], torch.tensor([len(hits) > 0 for hits in own])


class Walk:
    """The points of a unit.

    Attributes:
        x: ``(M, W)``.
        grown_at: where each was when its radius last grew, after that step's move; without growth, ``x``.
        first: radius of all at the start.
        radius: ``(M,)``.
        since: counted steps since the radius last grew, ``(M,)``.
        inside, accepted: of a point's last step, ``(M,)``: share of the sphere of the class; 1 where it moved.
    """

    def __init__(self, x: Tensor, radius: float) -> None:
        self.x, self.grown_at = x.clone(), x.clone()
        self.first = radius
        self.radius = torch.full((len(x),), radius, device=x.device)
        self.since = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.inside = torch.zeros(len(x), device=x.device)
        self.accepted = torch.zeros(len(x), device=x.device)
        self._grew = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def running(self, patience: int | None, max_radius: float | None) -> Tensor:
        """Numbers of the points that go on, on the CPU."""
        if patience is None and max_radius is None:
            return torch.arange(len(self.x))  # known without asking the device
        going = torch.ones_like(self._grew)
        if patience is not None:
            going &= self.since < patience
        if max_radius is not None:
            going &= self.radius < max_radius
        return going.cpu().nonzero().flatten()

    def take(
        self, rows: Tensor, moved: Tensor, radius: Tensor, grown: Tensor, accepted: Tensor, *, count_rejected: bool
    ) -> None:
        """Move points ``rows`` where the step was accepted.

        Growth stays whether or not it was. A step that grew is not counted; without ``count_rejected`` neither is one
        that was rejected (released code).
        """
        self.x[rows] = torch.where(accepted[:, None], moved, self.x[rows])
        self.radius[rows] = radius
        counts = ~grown if count_rejected else ~grown & accepted
        self.since[rows] = torch.where(grown, 0, self.since[rows] + counts)
        self._grew[rows] |= grown
        kept = grown | ~self._grew[rows]
        self.grown_at[rows] = torch.where(kept[:, None], self.x[rows], self.grown_at[rows])
