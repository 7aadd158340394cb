"""The networks of GMI and KEDMI: one DCGAN generator, GMI's critic, KEDMI's inversion-specific discriminator.

Module names are those of the released checkpoints, which load without renaming at ``width`` 1. Images are 64 x 64 RGB
in [0, 1], latents standard normal. Legend: N images, Z latent dimension, K classes of the target, c = round(64 width).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SIZE = 64  # pixels; four halvings lead to 4 x 4


def channels(width: float) -> int:
    """Channels at the layer next to the image: 64 at ``width`` 1."""
    return max(4, round(64 * width))


class Generator(nn.Module):
    """Latents ``(N, Z)`` to images ``(N, 3, 64, 64)`` in [0, 1] (GMI, KEDMI).

    Args:
        z_dim: ``Z``.
        width: multiplies every number of channels; 1 is the published network.
    """

    def __init__(self, *, z_dim: int = 100, width: float = 1.0) -> None:
        super().__init__()
        c = channels(width)
        self.first = 8 * c
        flat = self.first * 4 * 4
        self.l1 = nn.Sequential(nn.Linear(z_dim, flat, bias=False), nn.BatchNorm1d(flat), nn.ReLU())
        self.l2_5 = nn.Sequential(
            _up(8 * c, 4 * c),
            _up(4 * c, 2 * c),
            _up(2 * c, c),
            nn.ConvTranspose2d(c, 3, 5, stride=2, padding=2, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latents."""
        x: Tensor = self.l1(z)
        images: Tensor = self.l2_5(x.view(-1, self.first, 4, 4))
        return images


class Critic(nn.Module):
    """GMI's critic "DGWGAN": images ``(N, 3, 64, 64)`` in [0, 1] to scores ``(N,)``, higher is more realistic."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        c = channels(width)
        self.ls = nn.Sequential(
            nn.Conv2d(3, c, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
            _down(c, 2 * c),
            _down(2 * c, 4 * c),
            _down(4 * c, 8 * c),
            nn.Conv2d(8 * c, 1, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores of images."""
        score: Tensor = self.ls(images)
        return score.view(-1)


class Discriminated(NamedTuple):
    """KEDMI's discriminator: features ``(N, 64 c)`` before minibatch discrimination, logits ``(N, K)``."""

    features: Tensor
    logits: Tensor


class MinibatchDiscrimination(nn.Module):
    """How near each sample of a batch is to all others, in ``kernels`` learnt projections (Salimans et al., 2016).

    ``o[n, b] = sum_m exp(-|M[n, b] - M[m, b]|_1) - 1`` with ``M = f T``. The sum is not divided by the batch, as in
    the release: a batch of another size gives numbers of another size.
    """

    def __init__(self, features: int, kernels: int, dimensions: int) -> None:
        super().__init__()
        self.T = nn.Parameter(torch.randn(features, kernels, dimensions))

    def forward(self, f: Tensor) -> Tensor:
        """Closeness ``(N, kernels)`` of features ``(N, F)``."""
        projected = (f @ self.T.flatten(1)).view(f.shape[0], *self.T.shape[1:]).transpose(0, 1)  # (kernels, N, dims)
        distance = torch.cdist(projected.float(), projected.float(), p=1.0)
        return (torch.exp(-distance).sum(dim=2) - 1).T


class MinibatchDiscriminator(nn.Module):
    """KEDMI's discriminator: the target's classes as outputs; real means that any of them fires.

    With ``lse = logsumexp(logits)`` its probability of "real" is ``sigmoid(lse)``. The output of an image depends on
    the whole batch, in eval mode too.

    Args:
        num_classes: ``K``.
        width: multiplies every number of channels; 1 is the published network.
        kernels, dimensions: of the minibatch discrimination (64 and 50 as published).
    """

    def __init__(self, *, num_classes: int, width: float = 1.0, kernels: int = 64, dimensions: int = 50) -> None:
        super().__init__()
        c = channels(width)
        self.layer1 = _down(3, c)  # the first layer has the norm as well, unlike the critic's
        self.layer2 = _down(c, 2 * c)
        self.layer3 = _down(2 * c, 4 * c)
        self.layer4 = _down(4 * c, 4 * c, kernel=3)
        self.mbd1 = MinibatchDiscrimination(4 * c * 16, kernels, dimensions)
        self.fc_layer = nn.Linear(4 * c * 16 + kernels, num_classes)

    def forward(self, images: Tensor) -> Discriminated:
        """Features and logits of a batch of images."""
        f: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(images)))).flatten(1)
        logits: Tensor = self.fc_layer(torch.cat([f, self.mbd1(f).to(f.dtype)], dim=1))
        return Discriminated(f, logits)


def _up(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(into, out, 5, stride=2, padding=2, output_padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


def _down(into: int, out: int, kernel: int = 5) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, kernel, stride=2, padding=kernel // 2),
        nn.InstanceNorm2d(out, affine=True),
        nn.LeakyReLU(0.2),
    )
