"""The distributions that VMI recovers: normal ones, and flows of additive couplings, many of them side by side.

Legend: U identities, L layers, S samples, Z latent dimension (even for flows), H = Z / 2, C hidden units of a coupling.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mibench.rng import Streams

_WEIGHT = 0.05  # standard deviation of a coupling's first weights, released
_DRAWS = 100  # that the normalisations of a coupling start by, released
_SCALE = 3.0  # factor in the exponent of a coupling's last layer, released


class LatentDistributions(Protocol):
    """``U x L`` distributions of latents, and what of them is learnt."""

    parameters: list[Tensor]

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``(U, L, S, Z)`` from standard normal noise ``(U, S, Z)``, which all layers share, and the divergence
        from N(0, I) in nats, ``(U, L)``: exact, or estimated from these samples.
        """


class NormalLatents:
    """``N(mu, diag(sigma^2))``, which start as the prior, N(0, I)."""

    def __init__(self, identities: int, layers: int, dimension: int, device: torch.device) -> None:
        self.mu = torch.zeros(identities, layers, dimension, device=device, requires_grad=True)
        self.log_sigma = torch.zeros_like(self.mu, requires_grad=True)
        self.parameters = [self.mu, self.log_sigma]

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparametrised samples, and the divergence as a formula."""
        z = self.mu[:, :, None] + self.log_sigma.exp()[:, :, None] * noise[:, None]
        inner = self.mu.square() + (2 * self.log_sigma).exp() - 1 - 2 * self.log_sigma
        return z, 0.5 * inner.sum(dim=-1)


class Coupling:
    """One step of ``B`` flows side by side, in the direction of sampling: additive coupling, permutation, scale.

    Every field is stacked along a first axis ``B``. Weights take inputs last: ``(B, out, in)``.

    Args:
        batch: ``B``.
        dimension: ``Z``.
        hidden: ``C``.
        permutation: int64 ``(B, Z)`` or ``(1, Z)``; sampling applies its inverse.
    """

    def __init__(self, batch: int, dimension: int, hidden: int, permutation: Tensor) -> None:
        half = dimension // 2
        self.inverse = permutation.argsort(dim=1).expand(batch, dimension)
        self.shift, self.log_scale = torch.zeros(batch, dimension), torch.zeros(batch, dimension)
        self.first, self.second = torch.zeros(batch, hidden, half), torch.zeros(batch, hidden, hidden)
        self.first_shift, self.first_log_scale = torch.zeros(batch, hidden), torch.zeros(batch, hidden)
        self.second_shift, self.second_log_scale = torch.zeros(batch, hidden), torch.zeros(batch, hidden)
        self.last_log_scale, self.last_bias = torch.zeros(batch, half), torch.zeros(batch, half)
        self.last = torch.zeros(batch, half, hidden)

    NAMES = (  # in the order of the released parameters
        "shift",
        "log_scale",
        "first",
        "first_shift",
        "first_log_scale",
        "second",
        "second_shift",
        "second_log_scale",
        "last_log_scale",
        "last",
        "last_bias",
    )

    def start(self, weights: torch.Generator) -> None:
        """Draw the hidden weights and normalise what they give for draws of N(0, I); the step is the identity still,
        up to its permutation, since the last layer is zero.
        """
        self.first = _WEIGHT * torch.randn(self.first.shape, generator=weights)
        self.second = _WEIGHT * torch.randn(self.second.shape, generator=weights)
        given = torch.randn(len(self.first), _DRAWS, self.first.shape[2], generator=weights)
        u = _times(self.first, given)
        self.first_shift, self.first_log_scale = -u.mean(dim=1), -u.std(dim=1).log()
        u = _times(self.second, functional.elu(_normalised(u, self.first_shift, self.first_log_scale)))
        self.second_shift, self.second_log_scale = -u.mean(dim=1), -u.std(dim=1).log()

    def to(self, device: torch.device) -> None:
        """Move to a device and keep gradients from now on."""
        self.inverse = self.inverse.to(device)
        for name in self.NAMES:
            setattr(self, name, getattr(self, name).to(device).requires_grad_())

    @property
    def parameters(self) -> list[Tensor]:
        """What is learnt."""
        return [getattr(self, name) for name in self.NAMES]

    def sample(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The step of samples ``(B, S, Z)``, and what it adds to their log density, ``(B,)``."""
        one, other = z.chunk(2, dim=2)
        u = functional.elu(_normalised(_times(self.first, one), self.first_shift, self.first_log_scale))
        u = functional.elu(_normalised(_times(self.second, u), self.second_shift, self.second_log_scale))
        moved = (_times(self.last, u) + self.last_bias[:, None]) * (_SCALE * self.last_log_scale).exp()[:, None]
        x = torch.cat([one, other - moved], dim=2)
        x = x.gather(2, self.inverse[:, None].expand_as(x))
        x = x * (-self.log_scale).exp()[:, None] - self.shift[:, None]
        return x, self.log_scale.sum(dim=1)


class FlowLatents:
    """A flow of ``steps`` couplings for each identity and layer. A layer's permutations are those of every person."""

    def __init__(
        self,
        names: list[int],
        layers: int,
        dimension: int,
        device: torch.device,
        streams: Streams,
        *,
        steps: int,
        hidden: int,
    ) -> None:
        self.shape = (len(names), layers)
        self.steps = []
        for number in range(steps):
            orders = [
                torch.randperm(dimension, generator=streams.generator("permutation", layer, number))
                for layer in range(layers)
            ]
            order = torch.stack(orders).repeat(len(names), 1)
            coupling = Coupling(len(order), dimension, hidden, order)
            alone = []
            for name in names:  # a person's flows do not depend on who shares the unit
                one = Coupling(layers, dimension, hidden, torch.stack(orders))
                one.start(streams.generator("identity", name, "coupling", number))
                alone.append(one)
            for field in Coupling.NAMES:
                setattr(coupling, field, torch.cat([getattr(one, field) for one in alone]))
            coupling.to(device)
            self.steps.append(coupling)
        self.parameters = [tensor for coupling in self.steps for tensor in coupling.parameters]

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of every flow, and the mean over them of ``log q - log N(0, I)``."""
        identities, layers = self.shape
        z = noise[:, None].expand(-1, layers, -1, -1).flatten(0, 1)
        x, log_q = sampled(self.steps, z)
        kl = (log_q - log_normal(x)).mean(dim=1)
        return x.unflatten(0, self.shape), kl.view(identities, layers)


def sampled(steps: list[Coupling], z: Tensor) -> tuple[Tensor, Tensor]:
    """Samples ``(B, S, Z)`` of flows from standard normal ``z``, and the logarithm of their density ``(B, S)``."""
    log_q = log_normal(z)
    for coupling in reversed(steps):
        z, added = coupling.sample(z)
        log_q = log_q + added[:, None]
    return z, log_q


def log_normal(x: Tensor) -> Tensor:
    """``log N(x; 0, I)``: ``(..., Z)`` to ``(...)``."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(dim=-1)


def _times(weight: Tensor, x: Tensor) -> Tensor:
    """``(B, out, in)`` by ``(B, S, in)``: ``(B, S, out)``."""
    return torch.bmm(x, weight.transpose(1, 2))


def _normalised(u: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
    return (u + shift[:, None]) * log_scale.exp()[:, None]
