"""Random erasing (MIDRE: Tran et al., "Defending against Model Inversion Attacks via Random Erasing").

Every training image loses one square of random size and place, so that no image is ever seen whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, Defence, MibenchError, TrainingHooks, TrainingTask

FILLS = {
    "mean": (0.485, 0.456, 0.406),  # of ImageNet, in [0, 1]
    "released": (0.7425, 0.728, 0.703),  # the same numbers, applied by the release after normalisation to [-1, 1]
}


def erase(
    images: Tensor,
    generator: torch.Generator,
    *,
    probability: float,
    smallest: float,
    largest: float,
    fill: tuple[float, float, float],
) -> Tensor:
    """Fill one square of each image.

    Args:
        images: float32 ``(B, 3, S, S)`` in [0, 1]; left alone.
        generator: on the CPU.
        probability: that an image is erased at all.
        smallest, largest: area of the square as a share of the image, drawn uniformly.
        fill: the colour, red, green and blue in [0, 1].

    Returns:
        ``(B, 3, S, S)``.
    """
    count, _, side, _ = images.shape
    drawn = torch.rand(4, count, generator=generator)
    edges = (side * (smallest + (largest - smallest) * drawn[0]).sqrt()).round().clamp_(0, side).long()
    edges = torch.where(drawn[1] < probability, edges, 0)
    top, left = ((share * (side - edges + 1)).long().minimum(side - edges) for share in drawn[2:])
    line = torch.arange(side)
    rows = (line >= top[:, None]) & (line < (top + edges)[:, None])  # (B, S)
    columns = (line >= left[:, None]) & (line < (left + edges)[:, None])
    mask = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device, non_blocking=True)
    colour = torch.tensor(fill, dtype=images.dtype).view(1, 3, 1, 1).to(images.device, non_blocking=True)
    return torch.where(mask, colour, images)


class ErasingHooks(TrainingHooks):
    """Erases a square of every training image, after the augmentation."""

    def __init__(self, defence: RandomErasing, task: TrainingTask) -> None:
        super().__init__()
        self.defence, self.task = defence, task

    def batch(self, batch: Batch) -> Batch:
        """The batch with its squares erased."""
        chosen = self.defence
        if not chosen.probability:
            return batch
        images = erase(
            batch.images,
            self.task.streams.generator("square", batch.step),
            probability=chosen.probability,
            smallest=chosen.smallest,
            largest=chosen.largest,
            fill=FILLS[chosen.fill],
        )
        return replace(batch, images=images)


@dataclass(frozen=True, kw_only=True)
class RandomErasing(Defence):
    """Erase one square of every training image (MIDRE).

    Attributes:
        probability: that an image loses a square.
        smallest, largest: area of the square as a share of the image (published: 0.1, and 0.4 or 0.8).
        fill: ``mean``, ImageNet's mean colour, or ``released``, the brighter one that the released code fills in.
    """

    name: ClassVar[str] = "midre"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)

    probability: float = 1.0
    smallest: float = 0.1
    largest: float = 0.4
    fill: str = "mean"

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.probability <= 1:
            raise MibenchError(f"defence.probability must lie in [0, 1], got {self.probability}")
        if not (math.isfinite(self.largest) and 0 <= self.smallest <= self.largest <= 1):
            raise MibenchError(
                f"defence.smallest and defence.largest must be shares of the area, 0 <= smallest <= largest <= 1, "
                f"got {self.smallest} and {self.largest}"
            )
        if self.fill not in FILLS:
            raise MibenchError(
                f"unknown defence.fill {self.fill!r}",
                cure=f"choose one of {', '.join(FILLS)}",
            )

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """One square for every image of every step."""
        return ErasingHooks(self, task)
