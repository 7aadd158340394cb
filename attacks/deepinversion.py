"""DeepInversion: pixels whose features have the statistics of the training (Yin et al., CVPR 2020, arXiv 1912.08795).

Adam moves noise on the cross entropy, the distance of each batch normalisation's input to its running mean and
variance, the total variation and the norm of the images. No prior is used. The statistics are those of all images of a
unit together, so the identities of a unit depend on each other: ``unit_size`` is a setting of the method here.

Legend: U identities of a unit, R images of each, N = U R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, BatchStatistics, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import should_report
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .losses import cross_entropy
from .requirements import check_ranges


def statistics_distance(layers: list[BatchStatistics], first_layer: float) -> Tensor:
    """``sum_l m_l (||mean_l - running mean||_2 + ||variance_l - running variance||_2)``, ``m_l`` 1 but the first."""
    distances = torch.stack(
        [
            torch.linalg.vector_norm(one.variance - one.running_variance)
            + torch.linalg.vector_norm(one.mean - one.running_mean)
            for one in layers
        ]
    )
    return first_layer * distances[0] + distances[1:].sum()


def neighbour_differences(images: Tensor) -> list[Tensor]:
    """Differences of pixels ``(N, 3, H, W)`` to those at the right, below, and on both diagonals."""
    return [
        images[..., :, :-1] - images[..., :, 1:],
        images[..., :-1, :] - images[..., 1:, :],
        images[..., 1:, :-1] - images[..., :-1, 1:],
        images[..., :-1, :-1] - images[..., 1:, 1:],
    ]


def total_variation(images: Tensor, over: Literal["batch", "image"]) -> Tensor:
    """Sum of the L2 norms of the four differences: of the whole batch (released code), or the mean over images."""
    differences = neighbour_differences(images)
    if over == "batch":
        return torch.stack([torch.linalg.vector_norm(one) for one in differences]).sum()
    return torch.stack([torch.linalg.vector_norm(one.flatten(1), dim=1) for one in differences]).sum(dim=0).mean()


def total_variation_l1(images: Tensor) -> Tensor:
    """Sum of the mean absolute values of the four differences."""
    return torch.stack([one.abs().mean() for one in neighbour_differences(images)]).sum()


def cosine_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate in ``step`` (from 0): up evenly over ``warmup`` steps, then down by a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@dataclass(frozen=True, kw_only=True)
class DeepInversion(Attack):
    """DeepInversion. The defaults are the released settings for 224 pixels, without its pooled resolution."""

    name: ClassVar[str] = "deepinversion"
    access: ClassVar[Access] = Access.GRADIENTS
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: with restarts the batch whose statistics are matched; 64 images or more
    restarts: int = 8  # ours: results of each identity
    steps: int = 3000  # released README: 2000 of them on pooled images, which a victim does not take
    learning_rate: float = 0.25  # released README
    betas: tuple[float, float] = (0.5, 0.9)  # released code
    schedule: Literal["cosine", "constant"] = "cosine"  # released code; its CIFAR script: constant
    warmup: int = 100  # released code: steps
    statistics_weight: float = 0.01  # released README
    first_layer: float = 10.0  # released code: factor of the first layer's distance; its CIFAR script: 1
    variation_weight: float = 1e-4  # released README: L2
    variation_over: Literal["batch", "image"] = "batch"  # released code; image (ours): independent of the batch's size
    l1_variation_weight: float = 0.0  # released README
    norm_weight: float = 1e-5  # released README: mean over images of their L2 norm
    jitter: int = 30  # released code: pixels by which all images of a step are rolled, at most
    flip: float = 0.5  # released code: probability that all images of a step are flipped
    space: Literal["normalised", "pixels"] = "normalised"  # what is optimised; pixels (ours): values in [0, 1]
    selection_transforms: int = 0  # random views of the ranking; 0: the image as it is

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "restarts", "steps"),
            positive=("learning_rate",),
            not_negative=(
                *("statistics_weight", "first_layer", "variation_weight", "l1_variation_weight", "norm_weight"),
                *("jitter", "warmup", "selection_transforms"),
            ),
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"deepinversion: betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.flip <= 1:
            raise MibenchError(f"deepinversion: flip is a probability, got {self.flip}")

    def planned_queries(self, identities: int) -> Queries:
        """Every image forwards and backwards in every step, then the views of the ranking."""
        shown = identities * self.restarts * self.steps
        ranked = identities * self.restarts * max(self.selection_transforms, 1)
        return Queries(forward=shown + ranked, backward=shown)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise the images of all identities together; the moment of the lowest total is kept."""
        names, spec = labels.tolist(), context.victim.image
        self._refuse_large(context, len(names) * self.restarts)
        targets = labels.to(context.device).repeat_interleave(self.restarts)
        scale, shift = self._moments(context)
        low, high = (0 - shift) / scale, (1 - shift) / scale
        shape = (spec.channels, spec.size, spec.size)
        drawn = [torch.randn(self.restarts, *shape, generator=streams.generator("identity", y, "start")) for y in names]
        x = torch.cat(drawn).to(context.device)
        if self.space == "pixels":
            x = (0.5 + 0.25 * x).clamp(0, 1)
        x.requires_grad_()
        adam = torch.optim.Adam([x], lr=self.learning_rate, betas=self.betas)
        best, least = x.detach().clone(), torch.full((), torch.inf, device=context.device)
        history: dict[str, list[Tensor]] = {}
        for step in range(self.steps):
            if self.schedule == "cosine":
                adam.param_groups[0]["lr"] = self.learning_rate * cosine_rate(step, self.steps, self._warmup)
            adam.zero_grad()
            logits, layers = context.victim.batch_statistics(self._disturbed(x * scale + shift, names, step, streams))
            own = cross_entropy(logits.float(), targets)
            statistics = statistics_distance(layers, self.first_layer)
            total = (
                own.mean()
                + self.statistics_weight * statistics
                + self.variation_weight * total_variation(x, self.variation_over)
                + self.l1_variation_weight * total_variation_l1(x)
                + self.norm_weight * torch.linalg.vector_norm(x.flatten(1), dim=1).mean()
            )
            total.backward()
            best = torch.where(total.detach() < least, x.detach(), best)
            least = torch.minimum(total.detach(), least)
            adam.step()
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, low), high))
            history.setdefault("L_id", []).append(own.detach().view(len(names), -1).mean(dim=1))
            history.setdefault("L_statistics", []).append(statistics.detach().expand(len(names)))
            if should_report(step + 1, self.steps):
                context.progress(step + 1, self.steps, "optimise")
        curves = stacked(history)
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        images = (best * scale + shift).clamp(0, 1).float().cpu()
        grouped = images.view(len(names), self.restarts, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.restarts),
            confidence=confidence.flatten(),
            curves=curves,
            notes=(f"batch statistics are those of {len(images)} images, all of the unit, and so depend on them",),
        )

    @property
    def _warmup(self) -> int:
        return min(self.warmup, self.steps - 1)

    def _refuse_large(self, context: Context, images: int) -> None:
        if images > context.micro_batch:
            raise MibenchError(
                f"deepinversion: {images} images of a unit are one batch, whose statistics are matched, and a "
                f"pass takes {context.micro_batch}",
                cure="lower attack.unit_size or attack.restarts",
            )

    def _moments(self, context: Context) -> tuple[Tensor, Tensor]:
        """Standard deviation and mean ``(1, 3, 1, 1)`` that lead from what is optimised to pixels in [0, 1]."""
        spec = context.victim.image
        values = (spec.std, spec.mean) if self.space == "normalised" else ((1.0,), (0.0,))
        one, other = (torch.tensor(value, device=context.device).view(1, -1, 1, 1) for value in values)
        return one, other

    def _disturbed(self, images: Tensor, names: list[int], step: int, streams: Streams) -> Tensor:
        """All images of a step rolled and flipped alike."""
        generator = streams.generator("unit", names[0], "jitter", step)
        down, right = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator).tolist()
        rolled = images.roll((down, right), dims=(2, 3))
        return rolled.flip(3) if float(torch.rand((), generator=generator)) < self.flip else rolled
