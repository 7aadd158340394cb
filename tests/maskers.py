"""Classifiers that hide gradients and nothing else, and honest ones; and a toy attack that needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from toyworld.attacks import starts
from toyworld.networks import ToyClassifier

from mibench.api import Access, Attack, ClassifierOutput, Context, Reconstruction, State
from mibench.rng import Streams
from mibench.targets.networks.vgg16 import VGG16

# What a test that wants them adds to the toy world; real networks are in every world.
CATALOGUE: dict[str, dict[str, str]] = {
    "attack": {"toysearch": "maskers:ToySearch"},
    "counterpart": {"toysearch": "toyattack"},
    "target": {"toyvanishing": "maskers:ToyVanishing", "toyshattered": "maskers:ToyShattered"},
}
REAL: dict[str, dict[str, str]] = {"target": {"vgg16_vanishing": "maskers:VanishingVGG16"}}

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


def vanished(output: ClassifierOutput) -> ClassifierOutput:
    """The same answer, to rounding, and a billionth of its gradient."""
    features, logits = output
    return ClassifierOutput(features, logits.detach() + 1e-9 * (logits - logits.detach()))


class ToyVanishing(ToyClassifier):
    """The toy world's classifier with a gradient that vanishes."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        return vanished(super().forward(images))


class ToyShattered(ToyClassifier):
    """The toy world's classifier with a gradient that each draw turns elsewhere."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        noise = 1e4 * torch.randn_like(images)
        return super().forward(images + noise * (images - images.detach()))


class VanishingVGG16(VGG16):
    """VGG16 with a gradient that vanishes."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        return vanished(super().forward(images))


@dataclass(frozen=True, kw_only=True)
class ToySearch(Attack):
    """The best of many draws: what gradient ascent reaches in the toy world, by scores alone."""

    name: ClassVar[str] = "toysearch"
    access: ClassVar[Access] = Access.SCORES

    unit_size: int = 2
    samples: int = 3
    draws: int = 400

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        assert context.prior is not None
        latents, wanted = starts(context, labels, self.draws, streams)
        scores = context.victim.scores(context.fit(context.prior.decode(latents))).gather(1, wanted[:, None])
        best, rows = scores.view(len(labels), self.draws).topk(self.samples, dim=1)
        chosen = latents.view(len(labels), self.draws, -1).gather(1, rows[..., None].expand(-1, -1, latents.shape[1]))
        kept = chosen.flatten(0, 1)
        images = context.fit(context.prior.decode(kept))
        return Reconstruction(images, labels.repeat_interleave(self.samples), best.flatten(), kept)
