"""The search for good starting points: a pool of latents, ranked by the victim (PPA, section 3.2).

It shows the victim images only and needs no gradient. DMMIA, PPA, MIRROR and the floor share it, so that a difference
between their rows is never a difference in candidates: the pool depends on the seed and on nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.api import Context, Prior, State
from mibench.rng import Streams

from .answers import Answered, confidence_in_classes
from .batching import micro_batches
from .rendering import Decoder, decoder
from .requirements import require_prior

_DRAWN = 256  # latents of one stream; part of what a seed means


def pool(prior: Prior | None, size: int, streams: Streams) -> Tensor:
    """The run's latents ``(size, latent_dim)``; a larger pool begins with the smaller one.

    They depend on the run's seed alone, not on the name of the attack.
    """
    prior, own = require_prior(prior), Streams(streams.seed, ("candidates",))
    blocks = [prior.sample(_DRAWN, own.generator(start)) for start in range(0, size, _DRAWN)]
    return torch.cat(blocks)[:size]


@torch.no_grad()
def pool_confidence(
    context: Context, latents: Tensor, psi: float | None, *, text: str, answer: Answered = confidence_in_classes
) -> Tensor:
    """Confidence of the victim in every class for every latent, averaged over the image and its mirror image.

    Args:
        context: victim and prior.
        latents: ``(N, latent_dim)``.
        psi: see :func:`~mibench.attacks.rendering.decoder`.
        text: for the progress bar.
        answer: confidence ``(N, C)`` of a victim in every class for images.

    Returns:
        float32 ``(N, C)`` on the CPU.
    """
    decode = decoder(require_prior(context.prior), psi)
    return image_confidence(context, latents, decode, mirrored=True, text=text, answer=answer)


@torch.no_grad()
def image_confidence(
    context: Context,
    codes: Tensor,
    decode: Decoder,
    *,
    mirrored: bool,
    text: str,
    answer: Answered = confidence_in_classes,
) -> Tensor:
    """Confidence of the victim in every class for every code: probabilities, or votes where it grants labels only.

    Args:
        context: the victim.
        codes: latents or styles ``(N, ...)``.
        decode: from codes to images of the prior.
        mirrored: average over the image and its mirror image, which shows the victim twice as many.
        text: for the progress bar.
        answer: confidence ``(N, C)`` of a victim in every class for images.

    Returns:
        float32 ``(N, C)`` on the CPU.
    """
    out = torch.empty(codes.shape[0], context.victim.num_classes)
    for part in micro_batches(codes.shape[0], context):
        images = context.fit(decode(codes[part].to(context.device)))
        score = answer(context.victim, images)
        if mirrored:
            score = (score + answer(context.victim, images.flip(3))) / 2
        out[part] = score.float().cpu()
        context.progress(part.stop, codes.shape[0], text)
    return out


def choose(state: State, labels: Tensor, count: int, *, stable: bool = False) -> Tensor:
    """The ``count`` latents of the pool that the victim is most confident about, best first: ``(U, count, Z)``.

    Args:
        state: ``latents`` ``(N, Z)`` and ``confidence`` ``(N, C)`` of the pool.
        labels: classes ``(U,)``.
        count: at most ``N``.
        stable: equal confidences keep the order of the pool. Needed where many are equal: votes, rounded scores.
            Otherwise their order is left to torch.
    """
    own = state["confidence"][:, labels]
    best = own.sort(dim=0, descending=True, stable=True).indices[:count] if stable else own.topk(count, dim=0).indices
    return state["latents"][best.T]
