"""Networks of the toy world: their weights follow from the data in closed form, so nothing needs training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mibench.api import ClassifierOutput, ImageSpec, Prior

from .data import ToyFaces, draw


class ToyClassifier(nn.Module):
    """Nearest class mean over the brightness of the four patches."""

    def __init__(self, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc_layer = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = self.pool(images.mean(dim=1, keepdim=True)).flatten(1)
        return ClassifierOutput(features, self.fc_layer(features))


class ToyRegressor(nn.Module):
    """Reads the four brightnesses."""

    def __init__(self, identity_dim: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.out = nn.Linear(4, identity_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.pool(images.mean(dim=1, keepdim=True)).flatten(1))


class ToyPrior(Prior):
    """Latents ``(n, 4)`` to brightnesses by a sigmoid."""

    options = ("truncation",)

    def __init__(self, scale: Tensor, image: ImageSpec, name: str, truncation: float = 1.0) -> None:
        self.name, self.image, self.latent_dim = name, image, 4
        self.scale = scale
        self.truncation = truncation

    @classmethod
    def build(
        cls, arguments: Mapping[str, Any], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> ToyPrior:
        return cls(weights["scale"], image, name, **arguments)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.truncation * torch.randn(n, 4, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        return draw((latents * self.scale).sigmoid(), self.image.size)

    def realism(self, images: Tensor) -> Tensor:
        return -images.std(dim=(1, 2, 3))


class ToyAimedPrior(ToyPrior):
    """The same, made against one target."""

    per_target = True


def classifier_weights(data: ToyFaces) -> dict[str, Tensor]:
    """A classifier whose logits are minus the squared distances to the class means, up to a constant per image."""
    images = data.private("train", 8)
    features = nn.AdaptiveAvgPool2d(2)(images.floats().mean(dim=1, keepdim=True)).flatten(1)
    means = torch.stack([features[images.labels == label].mean(dim=0) for label in range(data.persons)])
    return {"fc_layer.weight": 40 * means, "fc_layer.bias": -20 * means.square().sum(dim=1)}


def regressor_weights() -> dict[str, Tensor]:
    """The identity map."""
    return {"out.weight": torch.eye(4), "out.bias": torch.zeros(4)}


def prior_weights() -> dict[str, Tensor]:
    """A scale of one."""
    return {"scale": torch.ones(())}
