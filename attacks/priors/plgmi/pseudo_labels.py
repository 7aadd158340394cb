"""Top-n selection: the public images that a target is surest of, for each of its classes.

Shapes: N public images, K classes, n images of each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mibench.api import PriorTrainingData, TrainingContext

_CHUNK = 256  # images shown at once


class TopImages:
    """For each class the ``n`` images with the highest scores so far.

    Of images with equal scores the later one stays, as in the released code.
    """

    def __init__(self, num_classes: int, n: int) -> None:
        self.n, self.shown = n, 0
        self.scores = torch.empty(num_classes, 0)
        self.rows = torch.empty(num_classes, 0, dtype=torch.int64)  # (K, n), scores ascending

    def add(self, scores: Tensor) -> None:
        """Take note of the scores ``(B, K)`` of the next images."""
        new = torch.arange(self.shown, self.shown + len(scores)).expand(len(self.rows), -1)
        self.shown += len(scores)
        scores, order = torch.cat([self.scores, scores.float().cpu().T], dim=1).sort(dim=1, stable=True)
        rows = torch.cat([self.rows, new], dim=1).gather(1, order)
        self.scores, self.rows = scores[:, -self.n :].contiguous(), rows[:, -self.n :].contiguous()


@torch.no_grad()
def top_images(data: PriorTrainingData, public_images: Tensor, n: int, context: TrainingContext) -> Tensor:
    """Rows ``(K, n)``, int64 on the CPU, of the images ``(N, 3, H, W)`` that the target is surest are of each class.

    Every image is shown once. An image may be among those of several classes.
    """
    best = TopImages(data.victim.num_classes, n)
    for start in range(0, len(public_images), _CHUNK):
        images = public_images[start : start + _CHUNK].to(context.device).float() / 255
        best.add(data.victim.scores(at_size(images, data.victim.image.size)))
        context.progress(0, 1, f"labelling {best.shown} of {len(public_images)} public images")
    return best.rows


def at_size(images: Tensor, size: int) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1] as a target with inputs of ``size`` pixels is shown them, differentiable."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
