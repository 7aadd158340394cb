"""Priors that can be asked for images of one of the target's classes, and how a class is written into a latent.

A class-conditional generator takes a class beside its noise. Everything that works on latents alone (the floor, GMI,
KEDMI) must work on such a prior as well, so the class is one more coordinate of the latent: standard normal as all
others, its quantile picks the class. Draws from the prior then have every class with equal probability.

Legend: N latents, Z noise dimension, K classes. A latent has Z + 1 numbers.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from mibench.api import MibenchError, Prior, Victim


class ClassConditionalPrior(Prior):
    """A prior whose images are of a class of the target that it was made against.

    Attributes:
        noise_dim: ``Z``.
        num_classes: ``K``.
    """

    noise_dim: int
    num_classes: int

    @abstractmethod
    def generate(self, noise: Tensor, classes: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] from noise ``(N, Z)`` and classes, int64 ``(N,)``."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Latents ``(n, Z + 1)``, standard normal, on the CPU: classes are drawn evenly."""
        return torch.randn(n, self.noise_dim + 1, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] from latents ``(N, Z + 1)``; no gradient reaches the class."""
        return self.generate(latents[:, :-1], classes_of(latents, self.num_classes))

    def of_class(self, noise: Tensor, classes: Tensor) -> Tensor:
        """Latents ``(N, Z + 1)`` of images of ``classes`` ``(N,)``, from noise ``(N, Z)``."""
        middle = (classes.to(noise.device, torch.float64) + 0.5) / self.num_classes
        return torch.cat([noise, torch.special.ndtri(middle).to(noise)[:, None]], dim=1)


def classes_of(latents: Tensor, num_classes: int) -> Tensor:
    """The classes, int64 ``(N,)``, that latents ``(N, Z + 1)`` name by the quantile of their last number."""
    quantile = torch.special.ndtr(latents[:, -1].detach().double())
    classes: Tensor = (quantile * num_classes).long().clamp(0, num_classes - 1)
    return classes


def require_classes(prior: Prior, victim: Victim, attack: str) -> ClassConditionalPrior:
    """The prior of an attack that asks for images of one class.

    Raises:
        MibenchError: the prior makes images of no class, or knows another number of classes than the victim.
    """
    if not isinstance(prior, ClassConditionalPrior):
        raise MibenchError(
            f"{attack} needs a prior that makes images of a class, {prior.name!r} does not",
            cure="leave out --prior, and train one with: mibench train prior plgmi --target NAME",
        )
    if prior.num_classes != victim.num_classes:
        raise MibenchError(
            f"{attack}: prior {prior.name!r} knows {prior.num_classes} classes, the target has {victim.num_classes}",
            cure="name a prior that was trained against this target",
        )
    return prior
