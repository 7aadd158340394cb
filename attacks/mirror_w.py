"""MIRROR with gradients (An et al., NDSS 2022).

Adam moves the pool's best codes w of each identity on the cross entropy of randomly flipped images; after each step w
is clipped to the bounds of p-space. Pool, start, bounds and selection are those of the black box
(:mod:`mibench.attacks.mirror_space`).

Legend: U identities of a unit, K candidates of each, W dimension of a code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .alignment import Alignment, copied, draw_copies
from .batching import blocks, scatter_into_step
from .diagnostics import by_twentieth, stacked
from .losses import IDENTITY_LOSSES, identity_loss
from .mirror_space import Mirror
from .requirements import check_ranges, require_prior

LOSS_WEIGHT = 10.0  # released; Adam feels it through its epsilon only


@dataclass(frozen=True, kw_only=True)
class MirrorWhite(Mirror):
    """MIRROR, white box. The defaults are the released scripts', with a loss and a best state for each candidate."""

    name: ClassVar[str] = "mirror-w"
    access: ClassVar[Access] = Access.GRADIENTS
    budget_setting: ClassVar[str | None] = "steps"
    later_settings: ClassVar[tuple[str, ...]] = ("draws", "align", "align_strength")

    steps: int = 20_000  # released scripts
    learning_rate: float = 0.25  # released scripts (argument default 0.2), at the top of the ramp
    betas: tuple[float, float] = (0.9, 0.999)  # released code
    loss: str = "cross_entropy"  # released code
    flip: Literal["own", "shared", "none"] = "own"  # a coin for each image; shared: for an identity's batch (released)
    # candidate (ours): state and loss of the same moment, each candidate's own. batch (released): the state after the
    # step whose mean loss was the lowest, one moment for all candidates of an identity.
    keep: Literal["candidate", "batch"] = "candidate"
    draws: int = 1  # ours: gradients of a step averaged over so many answers, each to a copy of its own with ``align``
    align: Alignment = "none"  # AlignMI (arXiv 2509.20177): copies with noise (paa), or transformed (taa)
    align_strength: float = 0.06  # AlignMI's for PPA: noise of paa, in the range of an image

    def __post_init__(self) -> None:
        super().__post_init__()
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("steps", "draws"),
            positive=("learning_rate",),
            not_negative=("align_strength",),
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"mirror-w: betas must lie in [0, 1), got {self.betas}")

    def planned_queries(self, identities: int) -> Queries:
        """Every candidate forwards and backwards in every draw of every step, then its views in the final selection."""
        optimised = identities * self.candidates * self.steps * self.draws
        return Queries(forward=optimised + self.planned_ranking(identities), backward=optimised)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise the candidates of every identity and keep the best moment of each."""
        low, high = self.space(context, state).bounds(self.kappa)
        own, names = labels.to(context.device), labels.tolist()
        codes = self.start(state, labels, self.candidates)[0].to(context.device, copy=True).requires_grad_()
        adam = torch.optim.Adam([codes], betas=self.betas)
        best = Kept(codes, self.keep)
        losses: list[Tensor] = []
        for step in range(1, self.steps + 1):
            adam.param_groups[0]["lr"] = self.learning_rate * ramp(step / self.steps)
            adam.zero_grad()
            flips = self._flips(names, step, streams).to(context.device, non_blocking=True)
            copies = draw_copies(self.align, names, self.candidates, self.draws, step, streams)
            losses.append(self._backward(context, codes, own, flips, copies))
            best.before(codes, losses[-1])
            adam.step()
            with torch.no_grad():
                codes.clamp_(low, high)
            best.after(codes)
            context.progress(step, self.steps, "optimise")
        curves = stacked({"loss": [loss.mean(dim=1) for loss in losses]})
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        return self.finish(context, best.codes, labels, streams, curves)

    def _backward(self, context: Context, codes: Tensor, labels: Tensor, flips: Tensor, copies: Tensor) -> Tensor:
        """Leave the gradient of every candidate's own loss at ``codes`` ``(U, K, W)``; the losses ``(U, K)``."""
        decode, losses = self.decoder(require_prior(context.prior)), []
        targets = labels.repeat_interleave(codes.shape[1])
        for identities, block in blocks(codes.shape[:2], context):
            images = context.fit(decode(codes[identities, block].flatten(0, 1)))
            flipped = flips[identities, block].reshape(-1, 1, 1, 1)
            shown = torch.where(flipped, images.flip(3), images)
            seen = shown.detach().requires_grad_()  # gradients of the draws meet here, then pass the prior once
            total = codes.new_zeros(codes.shape[:2], dtype=torch.float32)[identities, block]
            for draw in range(self.draws):
                copy = copied(seen, copies[identities, block].flatten(0, 1), draw, self.align, self.align_strength)
                whole = scatter_into_step(context.victim.logits(copy).float(), codes.shape[:2], identities, block)
                step = IDENTITY_LOSSES[self.loss](whole.flatten(0, 1), targets).view(codes.shape[:2])
                loss = step[identities, block] / self.draws  # computed on the whole step, it rounds alike in any block
                (LOSS_WEIGHT * loss.sum() / codes.shape[1]).backward()
                total = total + loss.detach()
            shown.backward(seen.grad)
            losses.append(total.flatten())
        return torch.cat(losses).view(codes.shape[:2])

    def _flips(self, names: list[int], step: int, streams: Streams) -> Tensor:
        """Which candidates are shown as their mirror image: bool ``(U, K)``."""
        if self.flip == "none":
            return torch.zeros(len(names), self.candidates, dtype=torch.bool)
        drawn = self.candidates if self.flip == "own" else 1
        coins = [torch.rand(drawn, generator=streams.generator("identity", name, "flip", step)) for name in names]
        return (torch.stack(coins) < 0.5).expand(len(names), self.candidates)


class Kept:
    """The codes that :attr:`MirrorWhite.keep` keeps.

    Attributes:
        codes: ``(U, K, W)``.
    """

    def __init__(self, codes: Tensor, keep: Literal["candidate", "batch"]) -> None:
        self.codes = codes.detach().clone()
        self._batch = keep == "batch"
        self._least = torch.full(codes.shape[:2], torch.inf, device=codes.device)
        self._better = torch.zeros_like(self._least, dtype=torch.bool)

    def before(self, codes: Tensor, losses: Tensor) -> None:
        """Hear the losses ``(U, K)`` of ``codes``, before the step."""
        if self._batch:
            losses = losses.mean(dim=1, keepdim=True).expand_as(losses)
        self._better = losses < self._least
        self._least = torch.where(self._better, losses, self._least)
        if not self._batch:
            self._take(codes)

    def after(self, codes: Tensor) -> None:
        """See the codes after the step."""
        if self._batch:
            self._take(codes)

    def _take(self, codes: Tensor) -> None:
        self.codes = torch.where(self._better[..., None], codes.detach(), self.codes)


def ramp(t: float) -> float:
    """The factor of the learning rate at ``t`` in [0, 1] of the steps: up over a twentieth, down by a cosine."""
    down = min(1.0, (1 - t) / 0.25)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.05)
