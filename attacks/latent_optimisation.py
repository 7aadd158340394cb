"""What attacks that recover latents by gradient share: the critic they need, how they end, what a run's log gets.

Shapes: N latents or images, U identities, Z latent dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mibench.api import Context, MibenchError, Prior
from mibench.rng import stream

from .initial_selection import micro_batches, render, require_prior
from .losses import IDENTITY_LOSSES

_LOGGED = 20  # means of a curve that go into the run's log
_STALLED = 0.98  # an identity loss above this share of where it began has not moved

Settings = Any  # a configuration of either attack


def check_settings(attack: Settings, *, whole: tuple[str, ...]) -> None:
    """Refuse what makes no sense in the settings that GMI and KEDMI share.

    Args:
        attack: the configuration.
        whole: names of its fields that must be at least 1.

    Raises:
        MibenchError: with the setting, what it may be, and what it was.
    """
    if attack.loss not in IDENTITY_LOSSES:
        raise MibenchError(
            f"{attack.name}: unknown identity loss {attack.loss!r}; choose one of {', '.join(IDENTITY_LOSSES)}"
        )
    for name in whole:
        if getattr(attack, name) < 1:
            raise MibenchError(f"{attack.name}: {name} must be at least 1, got {getattr(attack, name)}")
    for name in ("realism_weight", "identity_weight", "selection_transforms"):
        if not 0 <= getattr(attack, name) < math.inf:
            raise MibenchError(f"{attack.name}: {name} must be finite and not negative, got {getattr(attack, name)}")
    if not 0 < attack.learning_rate < math.inf:
        raise MibenchError(f"{attack.name}: learning_rate must be positive and finite, got {attack.learning_rate}")
    if not attack.realism_weight and not attack.identity_weight:
        raise MibenchError(f"{attack.name}: realism_weight and identity_weight are both 0; nothing is optimised")


@torch.no_grad()
def compares_its_batch(context: Context) -> bool:
    """Whether the prior scores an image by the batch it stands in: otherwise beside its copy than beside another.

    Both batches have two images, so that a score that is the image's own is the same to rounding, on any device.
    """
    prior = require_prior(context.prior)
    one, other = prior.decode(prior.sample(2, stream(0, "compares its batch")).to(context.device)).split(1)
    beside_copy, beside_other = (prior.realism(torch.cat([one, second]))[0] for second in (one, other))
    return not torch.allclose(beside_copy, beside_other, rtol=1e-5, atol=1e-6)


def critic(prior: Prior | None, attack: str) -> Callable[[Tensor], Tensor]:
    """The prior's realism score: images ``(N, 3, H, W)`` in, ``(N,)`` out, higher is more realistic.

    Raises:
        MibenchError: the prior has no discriminator.
    """
    source = require_prior(prior)
    # a StyleGAN2 generator may come alone; other priors have no such attribute, or a discriminator in it
    if not callable(getattr(source, "realism", None)) or getattr(source, "discriminator", source) is None:
        raise MibenchError(
            f"{attack}: prior {source.name!r} comes without a discriminator; name another one with --prior, "
            f"or leave realism out with --set attack.realism_weight=0"
        )
    score: Callable[[Tensor], Tensor] = source.realism
    return score


@torch.no_grad()
def render_images(context: Context, latents: Tensor) -> Tensor:
    """Images ``(N, 3, H, W)`` at the victim's size, float32 on the CPU, of latents ``(N, Z)``."""
    parts = [
        context.fit(render(context.prior, latents[part].to(context.device), None)).float().cpu()
        for part in micro_batches(latents.shape[0], context)
    ]
    return torch.cat(parts)


def stacked(curves: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """Name -> ``(U, steps)`` float32 on the CPU, from a list over steps of ``(U,)`` for each name."""
    return {name: torch.stack(values, dim=1).float().cpu() for name, values in curves.items()}


def logged(curves: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """What of curves ``(U, steps)`` goes into the run's log: means over identities and twentieths of the steps."""
    return {
        name: [round(float(part.mean()), 5) for part in curve.mean(dim=0).tensor_split(min(_LOGGED, curve.shape[1]))]
        for name, curve in curves.items()
    }


def stalled(attack: Settings, curves: Mapping[str, Tensor]) -> Iterator[str]:
    """A sentence for the record when the identity loss hardly moved, after the first step, which may clamp."""
    share = max(1, attack.iterations // 10)
    if attack.identity_weight and attack.loss == "cross_entropy" and attack.iterations >= 10:
        first, last = (float(part.mean()) for part in (curves["L_id"][:, 1 : share + 1], curves["L_id"][:, -share:]))
        if last > _STALLED * first and last > 0.1:
            yield (
                f"the identity loss went from {first:.3g} to {last:.3g} in {attack.iterations} iterations: the steps "
                "are too small or too large for this prior, or too few"
            )
