"""PLG-MI's prior: a generator that was trained to make images of each of one target's classes.

Shapes: N images 3 x 64 x 64, Z noise dimension, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mibench.api import ImageSpec, MibenchError
from mibench.attacks.class_conditional import ClassConditionalPrior
from mibench.attacks.priors.loading import load_parts, read_arguments

from .networks import SIZE, Generator, channels


@dataclass(frozen=True, kw_only=True)
class PLGMIArguments:
    """What builds the generator."""

    z_dim: int = 128
    width: float = 1.0  # of all channels; 1 is the published network
    num_classes: int = 1000  # of the target


class PLGMIPrior(ClassConditionalPrior):
    """PLG-MI's conditional generator (Yuan et al., AAAI 2023), frozen. Its discriminator is not kept."""

    per_target: ClassVar[bool] = True

    def __init__(self, generator: Generator, *, z_dim: int, num_classes: int, image: ImageSpec, name: str) -> None:
        if (image.size, image.channels) != (SIZE, 3):
            on_card = f"{image.channels}x{image.size}x{image.size}"
            raise MibenchError(
                f"prior {name!r} makes images 3x{SIZE}x{SIZE}, its card says {on_card}", cure="correct the card"
            )
        self.generator = generator.eval().requires_grad_(False)
        self.noise_dim, self.num_classes = z_dim, num_classes
        self.latent_dim = z_dim + 1
        self.image = image
        self.name = name

    @classmethod
    def build(
        cls, arguments: Mapping[str, object], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> Self:
        """From a card's arguments (z_dim, width, num_classes) and weights, ``G.*``.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit exactly.
        """
        settings = read_arguments(PLGMIArguments, arguments, name)
        generator = Generator(num_classes=settings.num_classes, z_dim=settings.z_dim, features=channels(settings.width))
        load_parts({"G": generator}, weights, name)
        return cls(generator, z_dim=settings.z_dim, num_classes=settings.num_classes, image=image, name=name)

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place; returns itself."""
        self.generator.to(device)
        return self

    def generate(self, noise: Tensor, classes: Tensor) -> Tensor:
        """Images ``(N, 3, 64, 64)``; what the generator makes outside [0, 1] is clamped and gives no gradient, as by
        the first view of the released inversion."""
        images: Tensor = self.generator(noise, classes)
        return images.clamp(0, 1)
