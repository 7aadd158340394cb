"""A generator tuned to a few of its own images (PPDG-MI, Peng et al., NeurIPS 2024, released code).

The images are projected into the generator by another way than the one they came from, and its weights then learn to
make them of those styles. Images are compared by what the prior's discriminator makes of them (ours: the released code
downloads LPIPS's VGG16).

Legend: n images of one person, W dimension of a style, F numbers of an image's features, T steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mibench.api import Context, MibenchError, Prior
from mibench.rng import stream

from .batching import micro_batches
from .losses import negative_log_realness
from .mirror_w import ramp
from .priors.stylegan2.prior import StyleGAN2Prior
from .rendering import decoder, render_images

Distance = Literal["pairs", "transport", "mmd"]
CALM = 0.75  # released code: share of the projection with noise
FIXED = 64  # draws over which a generator's drift is measured
KERNELS = 5  # released code: of the maximum mean discrepancy, each twice as wide as the one before


def require_tunable(prior: Prior | None, attack: str) -> StyleGAN2Prior:
    """The prior, if it is a StyleGAN2 with a discriminator.

    Raises:
        MibenchError: it is another one.
    """
    if isinstance(prior, StyleGAN2Prior) and prior.has_discriminator:
        return prior
    lacks = "comes without a discriminator" if isinstance(prior, StyleGAN2Prior) else "is no StyleGAN2"
    raise MibenchError(
        f"{attack} tunes the synthesis network of StyleGAN2 and compares images by its discriminator, prior "
        f"{'of this run' if prior is None else repr(prior.name)} {'is missing' if prior is None else lacks}",
        cure="run with --prior stylegan2",
    )


def projection_noise(step: int, steps: int, size: float) -> float:
    """Noise on styles in ``step`` (from 0), in their standard deviation."""
    return float(size * max(0.0, 1 - step / steps / CALM) ** 2)


def pair_distance(source: Tensor, target: Tensor) -> Tensor:
    """Mean over pairs of the squared distance of features ``(n, F)``: a scalar."""
    return (source - target).square().sum(dim=1).mean()


def conditional_transport(source: Tensor, target: Tensor) -> Tensor:
    """Conditional transport between two sets (Zheng and Zhou, NeurIPS 2021) at the cost ``1 - cos``, both ways.

    Args:
        source: features of generated images ``(n, F)``.
        target: features of given images ``(m, F)``.
    """
    affinity = target @ source.T  # (m, n)
    cost = 1 - torch.nn.functional.cosine_similarity(target[:, None], source[None], dim=2)
    forth = (cost * affinity.softmax(dim=0)).sum(dim=0).mean()
    back = (cost * affinity.softmax(dim=1)).sum(dim=1).mean()
    return 0.5 * forth + 0.5 * back


def maximum_mean_discrepancy(source: Tensor, target: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of features ``(n, F)`` and ``(m, F)`` under five Gaussian kernels.

    The kernels' widths follow the mean squared distance of all pairs and take no gradient.
    """
    both = torch.cat([source, target])
    squared = (both[:, None] - both[None]).square().sum(dim=2)
    width = squared.detach().sum() / (len(both) ** 2 - len(both)) / 2 ** (KERNELS // 2)
    kernel = torch.stack([(-squared / (width * 2**power)).exp() for power in range(KERNELS)]).sum(dim=0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - kernel[:n, n:].mean() - kernel[n:, :n].mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairs": pair_distance,
    "transport": conditional_transport,
    "mmd": maximum_mean_discrepancy,
}


def discriminator_features(prior: StyleGAN2Prior, images: Tensor) -> Tensor:
    """Features ``(N, F)`` of images ``(N, 3, R, R)`` in [0, 1]: what the blocks of the discriminator put out.

    Each block is scaled so that a squared distance is the sum over blocks of the mean squared difference.
    """
    discriminator = prior.discriminator
    assert discriminator is not None
    x, blocks = images.mul(2).sub(1).to(prior.dtype), []
    for size in discriminator.resolutions:
        x = getattr(discriminator, f"b{size}")(x)
        blocks.append(x.float().flatten(1) / math.sqrt(x[0].numel()))
    return torch.cat(blocks, dim=1)


def with_own_synthesis(prior: StyleGAN2Prior) -> StyleGAN2Prior:
    """The prior with a generator of its own; the discriminator is shared, and what was measured of the prior stays."""
    own = copy.copy(prior)
    own.generator, own._statistics = copy.deepcopy(prior.generator), dict(prior._statistics)
    return own


def generator_drift(context: Context, prior: StyleGAN2Prior, tuned: StyleGAN2Prior, psi: float) -> Tensor:
    """Mean absolute difference of pixels, at the victim's size, between both generators' images of 64 fixed draws."""
    latents = prior.sample(FIXED, stream(0, "generator drift"))
    one, other = (render_images(context, latents, decoder(each, psi)) for each in (prior, tuned))
    return (one - other).abs().mean()


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How images are projected and a generator is tuned.

    Attributes:
        distance: between generated and given images: of pairs, or of the two sets.
        project_steps, project_rate, project_noise: of Adam on styles; the noise in their standard deviation.
        realism_weight: of ``-log D`` in the projection.
        tune_steps, tune_rate: of Adam on the synthesis network's weights.
    """

    distance: Distance
    project_steps: int
    project_rate: float
    project_noise: float
    realism_weight: float
    tune_steps: int
    tune_rate: float

    def project(self, context: Context, prior: StyleGAN2Prior, images: Tensor, start: Tensor, noise: Tensor) -> Tensor:
        """Styles ``(n, W)`` that the prior makes images like the given ones of.

        Args:
            context: whose micro-batch bounds what pairs take at once; sets are compared whole.
            prior: whose generator it is.
            images: ``(n, 3, R, R)``.
            start: ``(W,)``.
            noise: of every step ``(T, n, W)``, in units of ``project_noise``.
        """
        targets = discriminator_features(prior, images)
        styles = start.expand(len(images), -1).clone().requires_grad_()
        adam = torch.optim.Adam([styles], lr=self.project_rate)
        for step in range(self.project_steps):
            adam.param_groups[0]["lr"] = self.project_rate * ramp(step / self.project_steps)  # MIRROR's
            adam.zero_grad()
            size = projection_noise(step, self.project_steps, self.project_noise)
            for part in self._parts(len(images), context):
                made = prior.synthesis(styles[part] + size * noise[step, part])
                loss = DISTANCES[self.distance](discriminator_features(prior, made), targets[part])
                if self.realism_weight:
                    loss = loss + self.realism_weight * negative_log_realness(prior.realism(made).float()).mean()
                (loss * (len(made) / len(images))).backward()
            adam.step()
        return styles.detach()

    def tune(
        self, context: Context, prior: StyleGAN2Prior, styles: Tensor, images: Tensor
    ) -> tuple[StyleGAN2Prior, Tensor]:
        """A copy of the prior whose synthesis network makes the images of the styles, and its losses ``(T,)``.

        Args:
            context: as in :meth:`project`.
            prior: is left as it is.
            styles: ``(n, W)``.
            images: ``(n, 3, R, R)``.
        """
        targets = discriminator_features(prior, images)
        tuned = with_own_synthesis(prior)
        network = tuned.generator.synthesis.requires_grad_(True)
        for layer in network.layers():
            layer._energy = None  # kept for frozen weights, which these are no more
        adam = torch.optim.Adam(network.parameters(), lr=self.tune_rate)
        losses = []
        for _ in range(self.tune_steps):
            adam.zero_grad()
            total = styles.new_zeros(())
            for part in self._parts(len(images), context):
                made = discriminator_features(tuned, tuned.synthesis(styles[part]))
                loss = DISTANCES[self.distance](made, targets[part]) * (len(made) / len(images))
                loss.backward()
                total = total + loss.detach()
            adam.step()
            losses.append(total)
        network.requires_grad_(False)
        for parameter in network.parameters():
            parameter.grad = None
        network.freeze()
        return tuned, torch.stack(losses)

    def _parts(self, count: int, context: Context) -> list[slice]:
        """Pairs in micro-batches; sets whole."""
        return list(micro_batches(count, context)) if self.distance == "pairs" else [slice(None)]
