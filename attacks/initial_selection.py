"""The search for good starting points, and the robust ranking of finished images (PPA, sections 3.2 and 3.4).

Both show the victim images only and need no gradient. DMMIA, PPA and the floor share them, so that a difference between
their rows is never a difference in candidates: the pool depends on the seed and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mibench.api import Context, MibenchError, Prior, State
from mibench.rng import Streams

from .augment import apply_crops, draw_crops


def pool(prior: Prior | None, size: int, streams: Streams) -> Tensor:
    """The run's latents ``(size, latent_dim)``; a larger pool begins with the smaller one.

    They depend on the run's seed alone, not on the name of the attack.
    """
    source, seed = require_prior(prior), Streams(streams.seed, ("candidates",))
    blocks = [source.sample(256, seed.generator(start)) for start in range(0, size, 256)]
    return torch.cat(blocks)[:size]


def micro_batches(count: int, context: Context) -> Iterator[slice]:
    """Slices of at most the context's micro-batch that cover ``range(count)``."""
    for start in range(0, count, context.micro_batch):
        yield slice(start, min(count, start + context.micro_batch))


def should_report(step: int, steps: int, times: int = 100) -> bool:
    """Whether progress is worth reporting after ``step`` (from 1) of ``steps``: so many times, and at the end."""
    return step == steps or step % max(1, steps // times) == 0


def blocks(shape: torch.Size, context: Context) -> Iterator[tuple[slice, slice]]:
    """Samples ``(U, B)`` of a step in blocks of at most the micro-batch: whole identities where they fit, in order.
    A block is a slice of identities and a slice of the samples of each."""
    identities, each = shape
    limit = context.micro_batch
    if limit >= each:
        for start in range(0, identities, limit // each):
            yield slice(start, min(identities, start + limit // each)), slice(None)
    else:
        for k in range(identities):
            for start in range(0, each, limit):
                yield slice(k, k + 1), slice(start, start + limit)


def scatter_into_step(rows: Tensor, shape: torch.Size, identities: slice, block: slice) -> Tensor:
    """Rows ``(N, X)`` of a block of :func:`blocks` at their place in the whole step ``(U, B, X)``, ones elsewhere.

    Products and vectorised functions round by the size of their argument and the place in it. What is computed of the
    whole step has one size and one place for a sample, in blocks of any size.
    """
    if rows.shape[0] == shape.numel():
        return rows.view(*shape, -1)
    step = rows.new_ones(*shape, rows.shape[1])
    step[identities, block] = rows.view(step[identities, block].shape)
    return step


@torch.no_grad()
def pool_confidence(context: Context, latents: Tensor, decode_psi: float | None, *, text: str) -> Tensor:
    """Confidence of the victim in every class for every latent, averaged over the image and its mirror image.

    Args:
        context: victim and prior.
        latents: ``(N, latent_dim)``.
        decode_psi: truncation for priors that have a mapping network, None for the prior's own ``decode``.
        text: for the progress bar.

    Returns:
        float32 ``(N, C)`` on the CPU.
    """
    out = torch.empty(latents.shape[0], context.victim.num_classes)
    for part in micro_batches(latents.shape[0], context):
        images = context.fit(render(context.prior, latents[part].to(context.device), decode_psi))
        score = (context.victim.scores(images) + context.victim.scores(images.flip(3))) / 2
        out[part] = score.float().cpu()
        context.progress(part.stop, latents.shape[0], text)
    return out


def choose(state: State, labels: Tensor, count: int) -> Tensor:
    """The ``count`` latents of the pool that the victim is most confident about, best first: ``(U, count, Z)``.

    Args:
        state: ``latents`` ``(N, Z)`` and ``confidence`` ``(N, C)`` of the pool.
        labels: classes ``(U,)``.
        count: at most ``N``.
    """
    best = state["confidence"][:, labels].topk(count, dim=0).indices.T
    return state["latents"][best]


def require_prior(prior: Prior | None) -> Any:
    """The prior, of whatever kind: a mapping network and a synthesis network belong to some only."""
    if prior is None:
        raise MibenchError("this attack needs a prior and the run has none; name one with --prior")
    return prior


def render(prior: Prior | None, latents: Tensor, psi: float | None) -> Tensor:
    """Images of latents; with a mapping network, at truncation ``psi``."""
    prior = require_prior(prior)
    source = require_prior(prior)
    if psi is None or not hasattr(source, "synthesis"):
        images: Tensor = source.decode(latents)
    else:
        images = source.synthesis(source.truncate(source.mapping(latents), psi))
    return images


@torch.no_grad()
def render_styles(context: Context, w: Tensor, psi: float = 1.0) -> Tensor:
    """Finished images ``(N, 3, H, W)``, float32 on the CPU, of styles ``(N, W)`` that are still to be truncated by
    ``psi`` (1: they are what the synthesis network is given)."""
    prior = require_prior(context.prior)
    parts = [
        context.fit(prior.synthesis(prior.truncate(w[part], psi))).float().cpu()
        for part in micro_batches(w.shape[0], context)
    ]
    return torch.cat(parts)


@torch.no_grad()
def robust_confidence(
    context: Context,
    images: Tensor,
    labels: Tensor,
    streams: Streams,
    *,
    transforms: int,
    scale: tuple[float, float] = (0.5, 0.9),
    ratio: tuple[float, float] = (0.8, 1.2),
) -> Tensor:
    """Mean confidence in the target class under random crops and flips (PPA's final selection).

    Args:
        context: the victim.
        images: ``(U, K, 3, H, W)``: ``K`` images of each of ``U`` identities.
        labels: their target classes ``(U,)``.
        streams: crops of identity ``y`` come from ``streams.generator("identity", y, "selection")``.
        transforms: how many random views of each image; 0 scores the image as it is.
        scale: area of a crop as a fraction of the image.
        ratio: width over height of a crop.

    Returns:
        float32 ``(U, K)`` on the CPU.
    """
    identities, count = images.shape[:2]
    flat = images.flatten(0, 1)
    targets = labels.to(context.device).repeat_interleave(count)
    total = torch.zeros(identities * count, device=context.device)
    views = max(transforms, 1)
    crops = torch.stack(
        [
            draw_crops(
                views * count,
                streams.generator("identity", label, "selection"),
                scale=scale,
                ratio=ratio,
                flip=0.5,
            ).view(views, count, 4)
            for label in labels.tolist()
        ],
        dim=1,
    ).to(context.device)  # (views, U, K, 4)
    for part in micro_batches(flat.shape[0], context):
        images_here = flat[part].to(context.device)  # once for all views: a copy is what the host waits for
        reports = max(1, 100 * images_here.shape[0] // flat.shape[0])
        for view in range(views):
            shown = apply_crops(images_here, crops[view].flatten(0, 1)[part]) if transforms else images_here
            total[part] += context.victim.scores(shown).float().gather(1, targets[part, None]).squeeze(1)
            if should_report(view + 1, views, reports):
                done = part.start * views + images_here.shape[0] * (view + 1)
                context.progress(done, flat.shape[0] * views, "rank reconstructions")
    return (total / views).view(identities, count).cpu()
