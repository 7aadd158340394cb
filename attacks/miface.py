"""MIFace: gradient descent on pixels, without a prior (Fredrikson et al., CCS 2015, algorithm 1).

``x <- clip(x - lambda grad c(x))`` with ``c(x) = 1 - p_y(x)``, until the cost has not fallen for a while or is small
enough; the best x is returned. Against deep networks it finds patterns that convince the victim and nobody else, which
is what its row in a table shows.

Legend: U identities of a unit, R images of each, N those that are descended from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches, should_report
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .losses import cross_entropy
from .requirements import check_ranges


@dataclass(frozen=True, kw_only=True)
class MIFace(Attack):
    """MIFace. The defaults are the paper's; it names no prior and uses none."""

    name: ClassVar[str] = "miface"
    access: ClassVar[Access] = Access.GRADIENTS
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    restarts: int = 1  # results of each identity; from zero they are all alike, and descended once
    steps: int = 5000  # paper: alpha
    patience: int | None = (
        100  # paper: beta; ends when the cost is no lower than the highest of so many before; None: no
    )
    learning_rate: float = 0.1  # paper: lambda
    threshold: float | None = 0.99  # paper: gamma, as a confidence at which a descent ends; None: no
    start: Literal["zero", "uniform"] = "zero"  # paper; uniform (ours): pixels drawn evenly from [0, 1]
    # paper; cross_entropy (ours): the gradient of 1 - p_y is p_y (1 - p_y) times that of a logit, and vanishes at the
    # confidence of 1 in several hundred classes that a start has
    cost: Literal["one_minus_p", "cross_entropy"] = "one_minus_p"
    selection_transforms: int = 0  # random views of the ranking; 0: the image as it is

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "restarts", "steps"),
            positive=("learning_rate",),
            not_negative=("selection_transforms",),
        )
        if self.patience is not None and self.patience < 1:
            raise MibenchError(f"miface: patience must be at least 1, or null to go on, got {self.patience}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise MibenchError(f"miface: threshold must lie between 0 and 1, or be null for none, got {self.threshold}")

    @property
    def stops_early(self) -> bool:
        """A descent that has ended shows the victim nothing more."""
        return self.patience is not None or self.threshold is not None

    @property
    def descents(self) -> int:
        """Descents of each identity."""
        return 1 if self.start == "zero" else self.restarts

    def planned_queries(self, identities: int) -> Queries:
        """The start and every step forwards, all but the last backwards, then the views of the ranking: the most."""
        descended = identities * self.descents * self.steps
        ranked = identities * self.restarts * max(self.selection_transforms, 1)
        return Queries(forward=descended + identities * self.descents + ranked, backward=descended)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Descend from every start at once; what has ended is shown no more."""
        names = labels.tolist()
        targets = labels.to(context.device).repeat_interleave(self.descents)
        x = self._starts(context, names, streams).to(context.device)
        best, least = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
        cost, confidence = least, torch.zeros_like(least)
        costs: list[Tensor] = []  # (N,) of each moment; those of ended descents repeat
        confidences: list[Tensor] = []
        running, used = torch.arange(len(x), device=x.device), 0
        for step in range(self.steps + 1):
            if len(running):
                rows, last = running, step == self.steps
                cost, confidence = cost.clone(), confidence.clone()
                cost[rows], confidence[rows], gradient = self._costs(context, x[rows], targets[rows], last)
                used += len(rows)
                best = torch.where((cost < least).view(-1, 1, 1, 1), x, best)
                least = torch.minimum(cost, least)
                if self.stops_early:
                    goes_on = ~self._ends(costs, cost, confidence)[rows]
                    running, gradient = rows[goes_on], gradient[goes_on]
                if not last:
                    x[running] = (x[running] - self.learning_rate * gradient).clamp(0, 1)
            costs.append(cost)
            confidences.append(confidence)
            if should_report(step + 1, self.steps + 1):
                context.progress(step + 1, self.steps + 1, "descend")
        means = {
            name: [values.view(len(names), -1).mean(dim=1) for values in moments]
            for name, moments in (("cost", costs), ("confidence", confidences))
        }
        curves = stacked(means)
        context.log(event=self.name, identities=names, images=used, **by_twentieth(curves))
        images = best.detach().cpu().repeat_interleave(self.restarts // self.descents, dim=0)
        grouped = images.view(len(names), self.restarts, *images.shape[1:])
        ranked = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.restarts),
            confidence=ranked.flatten(),
            curves=curves,
            notes=tuple(self._notes(used, len(best), curves["cost"])),
        )

    def _starts(self, context: Context, names: list[int], streams: Streams) -> Tensor:
        shape = (context.victim.image.channels, context.victim.image.size, context.victim.image.size)
        if self.start == "zero":
            return torch.zeros(len(names), *shape)
        own = [torch.rand(self.restarts, *shape, generator=streams.generator("identity", y, "start")) for y in names]
        return torch.cat(own)

    def _costs(self, context: Context, x: Tensor, targets: Tensor, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Cost, confidence ``(N,)`` and, unless it is the ``last`` moment, gradient of each image's own cost."""
        costs, confidences, gradients = [], [], []
        for part in micro_batches(len(x), context):
            shown = x[part].detach().requires_grad_(not last)
            logits = context.victim.logits(shown).float()
            confidence = logits.softmax(dim=1).gather(1, targets[part, None]).squeeze(1)
            cost = 1 - confidence if self.cost == "one_minus_p" else cross_entropy(logits, targets[part])
            gradients.append(torch.zeros_like(shown) if last else torch.autograd.grad(cost.sum(), shown)[0])
            costs.append(cost.detach())
            confidences.append(confidence.detach())
        return torch.cat(costs), torch.cat(confidences), torch.cat(gradients)

    def _ends(self, before: list[Tensor], cost: Tensor, confidence: Tensor) -> Tensor:
        """Which images have arrived or fallen no further, bool ``(N,)``; never at the start."""
        ended = torch.zeros_like(cost, dtype=torch.bool)
        if before and self.threshold is not None:
            ended |= confidence >= self.threshold
        if self.patience is not None and len(before) >= self.patience:
            ended |= cost >= torch.stack(before[-self.patience :]).amax(dim=0)
        return ended

    def _notes(self, used: int, descents: int, cost: Tensor) -> list[str]:
        notes, planned = [], descents * (self.steps + 1)
        if used < planned:
            notes.append(f"stopped early: {used:,} of {planned:,} planned images of the descent were shown")
        if float(cost[:, -1].mean()) > 0.98 * float(cost[:, 0].mean()):
            notes.append(
                f"the cost went from {float(cost[:, 0].mean()):.3g} to {float(cost[:, -1].mean()):.3g}: the gradient "
                "vanishes at the start; try cost=cross_entropy"
            )
        return notes
