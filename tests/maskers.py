"""Classifiers that hide gradients and nothing else, and honest ones, over the same linear scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mibench.api import ClassifierOutput

CLASSES, SIZE = 5, 4


class Plain(nn.Module):
    """Logits are linear in the pixels: gradients have a closed form."""

    scale = 1.0

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weights", torch.randn(CLASSES, 3 * SIZE * SIZE, generator=generator) / 4)

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = self.hidden(images).flatten(1)
        return ClassifierOutput(features, self.answer(self.scale * features @ self.weights.T))

    def hidden(self, images: Tensor) -> Tensor:
        return images

    def answer(self, logits: Tensor) -> Tensor:
        return logits


class LeaksLess(Plain):
    """Honest, and less certain: a tenth of the logits."""

    scale = 0.1


class Vanishing(Plain):
    """The scores of :class:`Plain`, to rounding, and a billionth of its gradient."""

    def answer(self, logits: Tensor) -> Tensor:
        return logits.detach() + 1e-9 * (logits - logits.detach())


class Dead(Plain):
    """The scores of :class:`Plain`, and no gradient at all."""

    def answer(self, logits: Tensor) -> Tensor:
        return logits.detach() + 0 * logits


class Saturated(Plain):
    """Logits as large as float32 makes of use: the order of the scores stays, the loss at the best class is flat."""

    scale = 1e4


class Shattered(Plain):
    """A gradient that another draw turns elsewhere, with scores that stay."""

    def hidden(self, images: Tensor) -> Tensor:
        noise = 1e6 * torch.randn_like(images)
        return images + noise * (images - images.detach())


class Cut(Plain):
    """No way back at all."""

    def answer(self, logits: Tensor) -> Tensor:
        return logits.detach()
