"""The DCGAN priors of GMI and KEDMI: one generator, two ways to say how real an image looks.

Shapes: N images 3 x 64 x 64, Z latent dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from mibench.api import ImageSpec, MibenchError, Prior
from mibench.attacks.priors.loading import load_parts, read_arguments

from .networks import SIZE, Critic, Generator, MinibatchDiscriminator


@dataclass(frozen=True, kw_only=True)
class GMIArguments:
    """What builds GMI's networks."""

    z_dim: int = 100
    width: float = 1.0  # of all channels; 1 is the published network


@dataclass(frozen=True, kw_only=True)
class KEDMIArguments(GMIArguments):
    """What builds KEDMI's networks."""

    kernels: int = 64  # of the minibatch discrimination
    dimensions: int = 50
    num_classes: int = 1000  # of the target


class DCGANPrior(Prior):
    """A frozen DCGAN: what the priors of GMI and KEDMI share."""

    def __init__(self, generator: Generator, discriminator: nn.Module, *, z_dim: int, image: ImageSpec, name: str):
        if (image.size, image.channels) != (SIZE, 3):
            on_card = f"{image.channels}x{image.size}x{image.size}"
            raise MibenchError(
                f"prior {name!r} makes images 3x{SIZE}x{SIZE}, its card says {on_card}", cure="correct the card"
            )
        self.generator = generator.eval().requires_grad_(False)
        self.discriminator = discriminator.eval().requires_grad_(False)
        self.latent_dim = z_dim
        self.image = image
        self.name = name

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place; returns itself."""
        self.generator.to(device)
        self.discriminator.to(device)
        return self

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Latents ``(n, Z)``, standard normal, on the CPU."""
        return torch.randn(n, self.latent_dim, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(N, 3, 64, 64)`` in [0, 1] from latents ``(N, Z)``."""
        images: Tensor = self.generator(latents)
        return images


class GMIPrior(DCGANPrior):
    """The generator and the Wasserstein critic of GMI (Zhang et al., arXiv 1911.07135), trained on public images."""

    @classmethod
    def build(
        cls, arguments: Mapping[str, object], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> Self:
        """From a card's arguments (z_dim, width) and weights, ``G.*`` and ``D.*``.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit exactly.
        """
        settings = read_arguments(GMIArguments, arguments, name)
        generator, critic = Generator(z_dim=settings.z_dim, width=settings.width), Critic(width=settings.width)
        load_parts({"G": generator, "D": critic}, weights, name)
        return cls(generator, critic, z_dim=settings.z_dim, image=image, name=name)

    def realism(self, images: Tensor) -> Tensor:
        """The critic's score ``(N,)``; its zero means nothing."""
        score: Tensor = self.discriminator(images)
        return score


class KEDMIPrior(DCGANPrior):
    """KEDMI's inversion-specific GAN (Chen et al., arXiv 2010.04092): its discriminator learnt one target's classes."""

    per_target: ClassVar[bool] = True

    @classmethod
    def build(
        cls, arguments: Mapping[str, object], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> Self:
        """From a card's arguments (z_dim, width, kernels, dimensions, num_classes) and weights, ``G.*`` and ``D.*``.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit exactly.
        """
        settings = read_arguments(KEDMIArguments, arguments, name)
        generator = Generator(z_dim=settings.z_dim, width=settings.width)
        discriminator = MinibatchDiscriminator(
            num_classes=settings.num_classes,
            width=settings.width,
            kernels=settings.kernels,
            dimensions=settings.dimensions,
        )
        load_parts({"G": generator, "D": discriminator}, weights, name)
        return cls(generator, discriminator, z_dim=settings.z_dim, image=image, name=name)

    def realism(self, images: Tensor) -> Tensor:
        """The logit of "real", ``logsumexp`` over the target's classes ``(N,)``.

        Minibatch discrimination compares the images of the batch: the same image has another score in another batch.
        """
        logits: Tensor = self.discriminator(images).logits
        return logits.logsumexp(dim=1)
