"""The DCGAN priors of GMI and KEDMI: one generator, two ways to say how real an image looks.

Shapes: N images 3 x 64 x 64, Z latent dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mibench.api import ImageSpec, MibenchError
from mibench.attacks.priors.loading import check_arguments, load_parts

from .networks import SIZE, Critic, Generator, MinibatchDiscriminator


class DCGANPrior(ABC):
    """A frozen DCGAN (see :class:`mibench.api.Prior`). Gradients reach latents and images, never weights."""

    options: ClassVar[tuple[str, ...]] = ()  # nothing that `--set prior.NAME=VALUE` may add to a card
    latent_dim: int

    def __init__(self, generator: Generator, discriminator: nn.Module, *, z_dim: int, image: ImageSpec, name: str):
        if (image.size, image.channels) != (SIZE, 3):
            said = f"{image.channels}x{image.size}x{image.size}"
            raise MibenchError(f"prior {name!r} makes images 3x{SIZE}x{SIZE}, its card says {said}; correct the card")
        self.generator = generator.eval().requires_grad_(False)
        self.discriminator = discriminator.eval().requires_grad_(False)
        self.latent_dim = z_dim
        self.image = image
        self.name = name

    def to(self, device: torch.device | str) -> DCGANPrior:
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

    @abstractmethod
    def realism(self, images: Tensor) -> Tensor:
        """Higher is more realistic, ``(N,)``."""


class GMIPrior(DCGANPrior):
    """The generator and the Wasserstein critic of GMI (Zhang et al., arXiv 1911.07135), trained on public images."""

    @classmethod
    def build(
        cls, arguments: Mapping[str, Any], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> GMIPrior:
        """From a card's arguments (z_dim, width) and weights, ``G.*`` and ``D.*``.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit exactly.
        """
        defaults = {"z_dim": 100, "width": 1.0}
        check_arguments(arguments, defaults, name)
        given = {**defaults, **arguments}
        generator, critic = Generator(**given), Critic(width=given["width"])
        load_parts({"G": generator, "D": critic}, weights, name)
        return cls(generator, critic, z_dim=given["z_dim"], image=image, name=name)

    def realism(self, images: Tensor) -> Tensor:
        """The critic's score ``(N,)``; its zero means nothing."""
        score: Tensor = self.discriminator(images)
        return score


class KEDMIPrior(DCGANPrior):
    """KEDMI's inversion-specific GAN (Chen et al., arXiv 2010.04092): its discriminator learnt one target's classes."""

    per_target: ClassVar[bool] = True  # a run against another target needs another one

    @classmethod
    def build(
        cls, arguments: Mapping[str, Any], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> KEDMIPrior:
        """From a card's arguments (z_dim, width, kernels, dimensions, num_classes) and weights, ``G.*`` and ``D.*``.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit exactly.
        """
        defaults = {"z_dim": 100, "width": 1.0, "kernels": 64, "dimensions": 50, "num_classes": 1000}
        check_arguments(arguments, defaults, name)
        given = {**defaults, **arguments}
        generator = Generator(z_dim=given["z_dim"], width=given["width"])
        discriminator = MinibatchDiscriminator(
            **{key: given[key] for key in ("num_classes", "width", "kernels", "dimensions")}
        )
        load_parts({"G": generator, "D": discriminator}, weights, name)
        return cls(generator, discriminator, z_dim=given["z_dim"], image=image, name=name)

    def realism(self, images: Tensor) -> Tensor:
        """The logit of "real", ``logsumexp`` over the target's classes ``(N,)``.

        Minibatch discrimination compares the images of the batch: the same image scores otherwise in another batch.
        """
        logits: Tensor = self.discriminator(images).logits
        return logits.logsumexp(dim=1)
