"""How surrogates are trained: on the pool's images with a victim's answers, which were asked for once.

Legend: N images of the pool, B of a batch, S side of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mibench.api import Context, Victim
from mibench.rng import Streams

from .augment import draw_crops
from .batching import micro_batches, should_report
from .rendering import Decoder

AREA = (0.8, 1.0)  # LOKT, released code: of a square crop
TURN = math.radians(5)  # LOKT, released code: to either side
JITTER, JITTERED = 0.2, 0.5  # LOKT, released code: most change of brightness and contrast; probability


@torch.no_grad()
def answered_pool(
    context: Context, codes: Tensor, decode: Decoder, answer: Callable[[Victim, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Show the victim the images of a pool, once each, and keep both.

    Args:
        context: the victim.
        codes: latents or styles ``(N, ...)``.
        decode: from codes to images of the prior.
        answer: what the victim is asked about images.

    Returns:
        images uint8 ``(N, 3, S, S)`` and answers ``(N, ...)``, both on the CPU.
    """
    size = context.victim.image.size
    images, answers = torch.empty(len(codes), 3, size, size, dtype=torch.uint8), []
    for part in micro_batches(len(codes), context):
        shown = context.fit(decode(codes[part].to(context.device)))
        answers.append(answer(context.victim, shown).cpu())
        images[part] = (255 * shown).round().clamp(0, 255).to(torch.uint8).cpu()
        context.progress(part.stop, len(codes), "ask about the pool")
    return images, torch.cat(answers)


def train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    images: Tensor,
    *,
    steps: int,
    batch_size: int,
    schedule: Callable[[float], float],
    context: Context,
    streams: Streams,
) -> None:
    """Train a network and leave it in eval mode, without gradients.

    Args:
        network: on the context's device.
        optimiser: of its parameters; its rate is the first one.
        loss: of a batch: its images in [0, 1] ``(B, 3, S, S)`` on the device, their rows in the pool ``(B,)`` on the
            CPU, and a generator for what it draws.
        images: uint8 ``(N, 3, S, S)`` on the CPU.
        steps: batches.
        batch_size: ``B``; all images where there are fewer.
        schedule: the factor of the rate at ``t`` in [0, 1) of the steps.
        context: device, log and progress bar. Its micro-batch has no part in a training: networks normalise batches.
        streams: batches and views.
    """
    network.train()
    first = [group["lr"] for group in optimiser.param_groups]
    losses: list[Tensor] = []
    for step, rows in enumerate(_batches(len(images), batch_size, steps, streams)):
        for group, rate in zip(optimiser.param_groups, first, strict=True):
            group["lr"] = rate * schedule(step / steps)
        shown = images[rows].to(context.device, non_blocking=True).float() / 255
        with torch.enable_grad():
            value = loss(shown, rows, streams.generator("views", step))
            optimiser.zero_grad()
            value.backward()
        optimiser.step()
        losses.append(value.detach())
        if should_report(step + 1, steps):
            context.progress(step + 1, steps, "train the surrogate")
    network.eval().requires_grad_(False)
    means = [round(float(part.mean()), 5) for part in torch.stack(losses).cpu().tensor_split(min(20, steps))]
    context.log(event="surrogate", loss=means)


def half_cosine(t: float) -> float:
    """From 1 to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * t)


def constant(t: float) -> float:
    """1."""
    return 1.0


def _batches(count: int, size: int, steps: int, streams: Streams) -> Iterator[Tensor]:
    """Rows ``(B,)`` of each step: all images in one random order after another, without a short batch."""
    size = min(size, count)
    for step in range(steps):
        position = step % (count // size)
        if position == 0:
            order = torch.randperm(count, generator=streams.generator("order", step))
        yield order[position * size : (position + 1) * size]


def draw_training_views(count: int, generator: torch.Generator) -> Tensor:
    """Parameters ``(count, 7)`` of LOKT's augmentation: crop, turn in radians, brightness, contrast."""
    crops = draw_crops(count, generator, scale=AREA, flip=0.5)
    u = torch.rand(count, 4, generator=generator)
    jittered = u[:, :1] < JITTERED
    factors = torch.where(jittered, 1 + JITTER * (2 * u[:, 2:] - 1), 1.0)
    return torch.cat([crops, TURN * (2 * u[:, 1:2] - 1), factors], dim=1)


def apply_training_views(images: Tensor, views: Tensor) -> Tensor:
    """Crop, flip and turn in one interpolation, then brightness, then contrast about an image's mean.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        views: ``(N, 7)`` from :func:`draw_training_views`, on the device of the images.

    Returns:
        ``(N, 3, H, W)`` in [0, 1]. What lies outside repeats the border.
    """
    x, y, wide, high, turn, brightness, contrast = views.unbind(dim=1)
    cos, sin = turn.cos(), turn.sin()
    across = torch.stack([wide * cos, -wide * sin, x], dim=1)
    down = torch.stack([high * sin, high * cos, y], dim=1)
    grid = nn.functional.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    seen = nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    seen = (seen * brightness[:, None, None, None]).clamp(0, 1)
    mean = seen.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + contrast[:, None, None, None] * (seen - mean)).clamp(0, 1)
