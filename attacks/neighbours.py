"""Answers averaged over neighbours: images that differ by one grey level of one colour of one pixel.

A service that adds noise to its scores, the same whenever it is asked about the same image, draws it anew for a
neighbour, while the classifier behind it hardly notices: the mean of n answers has noise of 1 / sqrt(n) of the size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.api import MibenchError, Victim

from .answers import Answered, confidence_in_classes

LEVELS = 255


def neighbour(images: Tensor, number: int) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1], their value ``number`` (from 0) moved by a grey level towards the middle."""
    moved = images.clone().flatten(1)
    levels = (moved[:, number] * LEVELS).round()  # of the image of 8 bits that a service receives
    moved[:, number] = torch.where(levels > LEVELS / 2, levels - 1, levels + 1) / LEVELS
    return moved.view_as(images)


def averaged_answers(count: int) -> Answered:
    """The mean confidence over an image and ``count - 1`` of its neighbours, each shown to the victim."""

    def answered(victim: Victim, images: Tensor) -> Tensor:
        values = images[0].numel() if len(images) else count
        if count - 1 > values:
            raise MibenchError(
                f"an image of {values:,} values has no {count - 1:,} neighbours",
                cure=f"average over {values + 1:,} images at most",
            )
        total = confidence_in_classes(victim, images)
        for number in range(count - 1):
            total = total + confidence_in_classes(victim, neighbour(images, number))
        return total / count

    return confidence_in_classes if count == 1 else answered
