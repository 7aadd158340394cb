"""What attacks that recover latents by gradient share: their settings and what is checked of them.

Shapes: N latents or images, U identities, Z latent dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from mibench.api import Context, MibenchError, Prior
from mibench.rng import stream

from .losses import IDENTITY_LOSSES, identity_loss
from .requirements import NamedSettings, check_ranges

_STALLED = 0.98  # an identity loss above this share of its first values has stalled


class LatentSettings(NamedSettings, Protocol):
    """The settings that GMI and KEDMI share."""

    @property
    def loss(self) -> str: ...

    @property
    def iterations(self) -> int: ...

    @property
    def identity_weight(self) -> float: ...

    @property
    def realism_weight(self) -> float: ...


class Objective(Protocol):
    """What a recovery descends beside its prior's term."""

    def __call__(self, images: Tensor, part: slice, step: int) -> dict[str, Tensor]:
        """Losses ``(N,)`` by name of images ``(N, 3, H, W)`` at the victim's size, rows ``part`` of the unit's images.

        ``L_id`` is weighted and descended, what stands beside it is only recorded. Steps count from 1, alike in all
        micro-batches of a step.
        """


def identity_objective(context: Context, loss: str, labels: Tensor, each: int) -> Objective:
    """The victim's identity loss.

    Args:
        context: the victim.
        loss: its name.
        labels: target classes ``(U,)``.
        each: images of each, which lie side by side.
    """
    targets, of_logits = labels.to(context.device).repeat_interleave(each), identity_loss(loss)

    def losses(images: Tensor, part: slice, step: int) -> dict[str, Tensor]:
        return {"L_id": of_logits(context.victim.logits(images).float(), targets[part])}

    return losses


def check_settings(attack: LatentSettings, *, at_least_one: tuple[str, ...]) -> None:
    """Refuse what makes no sense in the settings that GMI and KEDMI share.

    Args:
        attack: the configuration.
        at_least_one: names of its whole numbers.

    Raises:
        MibenchError: with the setting, what it may be, and what it was.
    """
    if attack.loss not in IDENTITY_LOSSES:
        raise MibenchError(
            f"{attack.name}: unknown identity loss {attack.loss!r}", cure=f"choose one of {', '.join(IDENTITY_LOSSES)}"
        )
    check_ranges(
        attack,
        at_least_one=at_least_one,
        positive=("learning_rate",),
        not_negative=("realism_weight", "identity_weight", "selection_transforms"),
    )
    if not attack.realism_weight and not attack.identity_weight:
        raise MibenchError(f"{attack.name}: realism_weight and identity_weight are both 0; nothing is optimised")


@torch.no_grad()
def compares_its_batch(prior: Prior, device: torch.device) -> bool:
    """Whether the prior's score of an image depends on its batch: if beside its copy it differs from beside another.

    Both batches have two images, so that a score that is the image's own is the same to rounding, on any device.
    """
    one, other = prior.decode(prior.sample(2, stream(0, "compares its batch")).to(device)).split(1)
    beside_copy, beside_other = (prior.realism(torch.cat([one, second]))[0] for second in (one, other))
    return not torch.allclose(beside_copy, beside_other, rtol=1e-5, atol=1e-6)


def stalled(attack: LatentSettings, curves: Mapping[str, Tensor]) -> Iterator[str]:
    """A note when the identity loss hardly moved after the first step (which may clamp, so it does not count)."""
    share = max(1, attack.iterations // 10)
    if attack.identity_weight and attack.loss == "cross_entropy" and attack.iterations >= 10:
        first, last = (float(part.mean()) for part in (curves["L_id"][:, 1 : share + 1], curves["L_id"][:, -share:]))
        if last > _STALLED * first and last > 0.1:
            yield (
                f"the identity loss went from {first:.3g} to {last:.3g} in {attack.iterations} iterations: the steps "
                "are too small or too large for this prior, or too few"
            )
