"""Priors whose synthesis network can be entered at any block, and candidates on their way through it.

Legend: N candidates, W dimension of w, C channels and H side in pixels of the features that enter a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mibench.api import Context, MappingPrior, MibenchError

from .batching import micro_batches


@runtime_checkable
class StagedPrior(Protocol):
    """What :class:`~mibench.api.MappingPrior` has, and blocks that can be entered: StyleGAN2."""

    mapping: Callable[[Tensor], Tensor]
    truncate: Callable[[Tensor, float], Tensor]

    @property
    def stages(self) -> int:
        """Blocks."""

    def synthesis_from(self, stage: int, w: Tensor, features: Tensor | None, colours: Tensor | None) -> Tensor:
        """Images ``(N, 3, R, R)`` in [0, 1] by blocks ``stage`` (from 0) and later."""

    def entering(self, stage: int, w: Tensor, features: Tensor | None, colours: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features and image that enter block ``stage`` (from 1), from those that enter the block before it."""


def require_stages(prior: MappingPrior, stages: int) -> StagedPrior:
    """The prior, if its synthesis network can be entered at so many blocks.

    Raises:
        MibenchError: it cannot.
    """
    if not isinstance(prior, StagedPrior):
        raise MibenchError(
            f"this attack enters a prior's synthesis network block by block, {prior.name!r} cannot be entered",
            cure="run with --prior stylegan2",
        )
    if stages > prior.stages:
        raise MibenchError(
            f"prior {prior.name!r} has {prior.stages} blocks, stages is {stages}",
            cure=f"--set attack.stages={prior.stages}",
        )
    return prior


@dataclass(frozen=True)
class Entered:
    """Candidates at a block.

    Attributes:
        stage: number of the block, from 0.
        w: ``(N, W)``, truncated.
        features: what enters the block, ``(N, C, H, H)``; None at block 0.
        colours: the image of the blocks before, ``(N, 3, H, H)``; None: there is none, or it was dropped.
    """

    stage: int
    w: Tensor
    features: Tensor | None = None
    colours: Tensor | None = None

    def _map(self, change: Callable[[Tensor], Tensor]) -> Entered:
        kept = [None if part is None else change(part) for part in (self.features, self.colours)]
        return Entered(self.stage, change(self.w), *kept)

    def part(self, rows: Tensor | slice) -> Entered:
        """Some of them."""
        return self._map(lambda tensor: tensor[rows])

    def detached(self) -> Entered:
        """Without a graph."""
        return self._map(Tensor.detach)

    def leaves(self) -> Entered:
        """Copies of w and of the features whose gradients are kept."""
        features = None if self.features is None else self.features.clone().requires_grad_()
        return Entered(self.stage, self.w.clone().requires_grad_(), features, self.colours)

    def decode(self, prior: StagedPrior) -> Tensor:
        """Images ``(N, 3, R, R)``, differentiable."""
        return prior.synthesis_from(self.stage, self.w, self.features, self.colours)

    @torch.no_grad()
    def next(self, prior: StagedPrior, context: Context, *, keep_colours: bool) -> Entered:
        """The same candidates at the next block; without ``keep_colours`` the image starts there."""
        parts = [
            prior.entering(self.stage + 1, one.w, one.features, one.colours)
            for one in (self.part(rows) for rows in micro_batches(len(self.w), context))
        ]
        features = torch.cat([features for features, _ in parts])
        colours = torch.cat([colours for _, colours in parts]) if keep_colours else None
        return Entered(self.stage + 1, self.w, features, colours)
