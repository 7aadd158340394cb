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
RESIDENT_BYTES = 1 << 30  # a store up to this size moves to a GPU as a whole


def check_augmentation(name: str, known: tuple[str, ...] = AUGMENTATIONS) -> None:
    """Raise when ``name`` is none of the known ones."""
    if name not in known:
        raise MibenchError(f"unknown augmentation {name!r}", cure=f"choose one of {', '.join(known)}")


def channels_last_store(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 images ``(N, 3, S, S)`` as ``(N, S, S, 3)``, contiguous and on the device unless they are too many.

    Data sets hand over mapped files in this order, of which nothing is copied; 27,000 images of 224 pixels are 4 GB. A
    store beyond :data:`RESIDENT_BYTES` stays as and where it is, and batches are fetched from there.
    """
    store = pixels.permute(0, 2, 3, 1)
    return store if store.numel() > RESIDENT_BYTES else store.contiguous().to(device)


def fetched(store: Tensor, indices: slice | Tensor, device: torch.device) -> Tensor:
    """Images ``(B, S, S, 3)`` of a store, uint8, contiguous, on the device. Eight bits travel, not floats."""
    chosen = store[indices if isinstance(indices, slice) else indices.to(store.device, non_blocking=True)]
    return chosen.contiguous().to(device, non_blocking=True)


def plain_batch(store: Tensor, indices: slice | Tensor, device: torch.device | None = None) -> Tensor:
    """Images ``(B, 3, S, S)`` of a ``(N, S, S, 3)`` store as float32 in [0, 1], channels_last, untouched.

    On the device; None: where the store is.
    """
    return fetched(store, indices, device or store.device).permute(0, 3, 1, 2).float().mul_(EVALUATION_SCALE)


def training_batch(
    store: Tensor,
    indices: Tensor,
    generator: torch.Generator,
    *,
    flip: bool,
    augmentation: str,
    device: torch.device | None = None,
) -> Tensor:
    """Images ``(B, 3, S, S)``, float32 in [0, 1], channels_last, augmented per sample.

    Args:
        store: uint8 ``(N, S, S, 3)``.
        indices: int64 ``(B,)``, on the CPU.
        generator: the batch's own stream (CPU), so that a batch does not depend on the ones before it.
        flip: mirror each image with probability one half.
        augmentation: ``none``; ``shift`` moves an image by up to a sixteenth of its side and repeats its edge;
            ``light`` also draws brightness, contrast and a gain for each channel.
        device: where to compute; None: where the store is.
    """
    device = device or store.device
    if not flip and augmentation == "none":
        return plain_batch(store, indices, device)
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
    if store.device.type != device.type or not store.is_contiguous():  # "cuda" and "cuda:0" are not equal
        store, indices = fetched(store, indices, device), torch.arange(count)
    pixels = (indices[:, None, None] * side + rows[:, :, None]) * side + columns[:, None, :]  # (B, S, S)
    gathered = store.view(-1, 3)[pixels.to(store.device, non_blocking=True)]  # (B, S, S, 3)
    images = gathered.permute(0, 3, 1, 2).float().mul_(EVALUATION_SCALE)
    return _recoloured(images, generator) if augmentation == "light" else images


def _recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gain, contrast about each image's mean and channel gains: one affine map per image and channel."""
    count = images.shape[0]
    drawn = (torch.rand(count, 5, 1, 1, generator=generator) * 2 - 1).to(images.device, non_blocking=True)
    gain = (1 + BRIGHTNESS * drawn[:, 0:1]) * (1 + COLOUR * drawn[:, 2:5])  # (B, 3, 1, 1)
    contrast = 1 + CONTRAST * drawn[:, 1:2]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return images.mul_(gain * contrast).add_(gain * mean * (1 - contrast)).clamp_(0, 1)
