"""From latents or styles to images, in micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mibench.api import Context, MappingPrior, Prior

from .batching import micro_batches

Decoder = Callable[[Tensor], Tensor]  # latents or styles (N, ...) to the prior's images (N, 3, H, W) in [0, 1]


def decoder(prior: Prior, psi: float | None) -> Decoder:
    """How latents ``(N, Z)`` become images: with a mapping network at truncation ``psi``, else by ``decode``.

    None leaves the truncation to the prior's own ``decode``.
    """
    if psi is None or not isinstance(prior, MappingPrior):
        return prior.decode
    return lambda latents: prior.synthesis(prior.truncate(prior.mapping(latents), psi))


@torch.no_grad()
def render_images(context: Context, codes: Tensor, decode: Decoder) -> Tensor:
    """Finished images ``(N, 3, H, W)`` at the victim's size, in [0, 1], float32 on the CPU.

    Args:
        context: device, micro-batch and the victim's size.
        codes: latents or styles ``(N, ...)``.
        decode: from codes to images of the prior.
    """
    parts = [
        context.fit(decode(codes[part].to(context.device))).float().cpu()
        for part in micro_batches(codes.shape[0], context)
    ]
    return torch.cat(parts)
