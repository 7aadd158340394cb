"""The augmentation of the 224-pixel recipe: a random square crop, a colour jitter and a flip, for every sample its own.

Numbers are drawn on the CPU from the batch's stream and applied to a whole batch on the device. What is drawn and what
is done with it are those of torchvision's ``RandomResizedCrop``, ``ColorJitter`` and ``RandomHorizontalFlip`` on one
float image at a time (the reference in the tests), which on a batch would draw once for all of its images.

Legend: B images of a batch, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mibench.api import MibenchError

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """How strong: ``scale`` bounds the crop's area as a share of the image, the others are torchvision's strengths."""

    scale: tuple[float, float]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise MibenchError(f"crop_scale must be two areas in (0, 1], the smaller first, got {self.scale}")
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise MibenchError(f"{name} must lie in [0, {most}], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The random numbers of a batch, on the CPU.

    Attributes:
        side, top, left: the crop in whole pixels, int64 ``(B,)`` each.
        order: the order of brightness 0, contrast 1, saturation 2 and hue 3, int64 ``(B, 4)``.
        factors: their factors, float32 ``(B, 4)``; that of the hue is a shift in turns.
        mirrored: bool ``(B,)``.
    """

    side: Tensor
    top: Tensor
    left: Tensor
    order: Tensor
    factors: Tensor
    mirrored: Tensor


def draw(count: int, size: int, jitter: Jitter, generator: torch.Generator) -> Drawn:
    """Draw the numbers of ``count`` images of ``size`` pixels."""
    u = torch.rand(count, 8, generator=generator)
    area = jitter.scale[0] + (jitter.scale[1] - jitter.scale[0]) * u[:, 0]
    side = (area.sqrt() * size).round().long().clamp(1, size)
    room = size - side + 1
    strengths = torch.tensor([jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue])
    centres = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return Drawn(
        side=side,
        top=torch.minimum((u[:, 1] * room).long(), room - 1),
        left=torch.minimum((u[:, 2] * room).long(), room - 1),
        order=torch.rand(count, 4, generator=generator).argsort(dim=1),
        factors=centres + strengths * (2 * u[:, 3:7] - 1),
        mirrored=(u[:, 7] < 0.5) if jitter.flip else torch.zeros(count, dtype=torch.bool),
    )


def apply(images: Tensor, drawn: Drawn, jitter: Jitter) -> Tensor:
    """Images ``(B, 3, S, S)``, float32 in [0, 1], cropped, jittered and flipped, in this order."""
    images = cropped(images, drawn)
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    for place in range(4):
        for which, (change, strength) in enumerate(zip(CHANGES, strengths, strict=True)):
            rows = (drawn.order[:, place] == which).nonzero().squeeze(1)
            if not strength or not len(rows):
                continue
            factors = drawn.factors[rows, which].to(images.device, non_blocking=True).view(-1, 1, 1, 1)
            rows = rows.to(images.device, non_blocking=True)
            images = images.index_copy(0, rows, change(images[rows], factors))
    mirrored = drawn.mirrored.to(images.device, non_blocking=True)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def cropped(images: Tensor, drawn: Drawn) -> Tensor:
    """Each image's square crop at the size of the image again, bilinear; nothing behind a crop's edge is looked at."""
    size = images.shape[-1]
    centres = torch.arange(size) + 0.5
    inside = (centres * drawn.side[:, None] / size - 0.5).clamp(min=0)  # (B, S): pixels from the crop's corner
    inside = torch.minimum(inside, (drawn.side - 1)[:, None].float())
    rows, columns = inside + drawn.top[:, None], inside + drawn.left[:, None]
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=3)  # (B, S, S, 2): x, y
    grid = (grid * (2 / max(size - 1, 1)) - 1).to(images.device, non_blocking=True)
    return nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def grey(images: Tensor) -> Tensor:
    """Luminance ``(B, 1, S, S)``."""
    red, green, blue = images.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(1)


def brighter(images: Tensor, factors: Tensor) -> Tensor:
    """Towards black; factors ``(B, 1, 1, 1)``."""
    return (images * factors).clamp(0, 1)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the mean luminance of each image."""
    mean = grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return (factors * images + (1 - factors) * mean).clamp(0, 1)


def saturated(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the luminance of each pixel."""
    return (factors * images + (1 - factors) * grey(images)).clamp(0, 1)


def hue_turned(images: Tensor, turns: Tensor) -> Tensor:
    """Hues turned around the colour circle; saturation and value of HSV stay."""
    value, brightest = images.max(dim=1)
    least = images.amin(dim=1)
    chroma = value - least
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sextant = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], dim=1)
    hue = sextant.gather(1, brightest.unsqueeze(1)) + 6 * turns  # (B, 1, S, S), in sixths of a turn
    # a channel falls by a trapezium of the hue: f(n) = V - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6
    n = 5 - 2 * torch.arange(3.0, device=images.device)  # 5, 3, 1
    k = (n.view(1, 3, 1, 1) + hue).remainder(6)
    falls = torch.minimum(k, 4 - k).clamp(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * falls


Change = Callable[[Tensor, Tensor], Tensor]
CHANGES: tuple[Change, ...] = (brighter, contrasted, saturated, hue_turned)
