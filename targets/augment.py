"""Training batches cut from one uint8 tensor: selection, flip and shift in a single gather, then colours.

Shapes: N images of the data set, B of a batch, S pixels. Data sets are kept as ``(N, S, S, 3)`` so that a batch comes
out in channels_last without another copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mibench.api import MibenchError

AUGMENTATIONS = ("none", "shift", "light")
SHIFT = 1 / 16  # of the side, each way: 4 pixels at 64
BRIGHTNESS = 0.2  # a gain drawn from 1 -+ this
CONTRAST = 0.2
COLOUR = 0.1  # a gain of each channel
EVALUATION_SCALE = 1 / 255


def check_augmentation(name: str) -> None:
    """Raise when ``name`` is none of :data:`AUGMENTATIONS`."""
    if name not in AUGMENTATIONS:
        raise MibenchError(f"unknown augmentation {name!r}; choose one of {', '.join(AUGMENTATIONS)}")


def channels_last_store(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 images ``(N, 3, S, S)`` as a contiguous ``(N, S, S, 3)`` on the device."""
    return pixels.permute(0, 2, 3, 1).contiguous().to(device)


def plain_batch(store: Tensor, indices: slice | Tensor) -> Tensor:
    """Images ``(B, 3, S, S)`` of a ``(N, S, S, 3)`` store as float32 in [0, 1], channels_last, untouched."""
    return store[indices].permute(0, 3, 1, 2).float().mul_(EVALUATION_SCALE)


def training_batch(
    store: Tensor, indices: Tensor, generator: torch.Generator, *, flip: bool, augmentation: str
) -> Tensor:
    """Images ``(B, 3, S, S)``, float32 in [0, 1], channels_last, augmented per sample.

    Args:
        store: uint8 ``(N, S, S, 3)``.
        indices: int64 ``(B,)``, on the CPU.
        generator: the batch's own stream (CPU), so that a batch does not depend on the ones before it.
        flip: mirror each image with probability one half.
        augmentation: ``none``; ``shift`` moves an image by up to a sixteenth of its side and repeats its edge;
            ``light`` also draws brightness, contrast and a gain for each channel.
    """
    if not flip and augmentation == "none":
        return plain_batch(store, indices.to(store.device))
    count, side = len(indices), store.shape[1]
    rows = torch.arange(side).expand(count, side)
    columns = rows
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, side - 1 - columns, columns)
    if augmentation != "none":
        reach = round(side * SHIFT)
        offsets = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator)
        rows = (rows + offsets[0]).clamp_(0, side - 1)
        columns = (columns + offsets[1]).clamp_(0, side - 1)
    pixels = (indices[:, None, None] * side + rows[:, :, None]) * side + columns[:, None, :]  # (B, S, S)
    gathered = store.view(-1, 3)[pixels.to(store.device)]  # (B, S, S, 3)
    images = gathered.permute(0, 3, 1, 2).float().mul_(EVALUATION_SCALE)
    return _recoloured(images, generator) if augmentation == "light" else images


def _recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gain, contrast about each image's mean and channel gains: one affine map per image and channel."""
    count = images.shape[0]
    drawn = (torch.rand(count, 5, 1, 1, generator=generator) * 2 - 1).to(images.device)
    gain = (1 + BRIGHTNESS * drawn[:, 0:1]) * (1 + COLOUR * drawn[:, 2:5])  # (B, 3, 1, 1)
    contrast = 1 + CONTRAST * drawn[:, 1:2]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return images.mul_(gain * contrast).add_(gain * mean * (1 - contrast)).clamp_(0, 1)
