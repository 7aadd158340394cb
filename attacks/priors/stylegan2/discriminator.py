"""The StyleGAN2 discriminator (residual architecture), with the state-dict names and outputs of the ADA release."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .generator import channels_at
from .layers import Convolution, FullyConnected, resampling_filter


class DiscriminatorBlock(nn.Module):
    """Halve the size: two 3x3 convolutions beside a 1x1 skip. The first block also reads the colours."""

    def __init__(self, in_channels: int, out_channels: int, *, reads_image: bool, conv_clamp: float | None) -> None:
        super().__init__()
        self.register_buffer("resample_filter", resampling_filter())
        self.reads_image = reads_image
        if reads_image:
            self.fromrgb = Convolution(3, in_channels, 1, conv_clamp=conv_clamp)
        self.conv0 = Convolution(in_channels, in_channels, 3, conv_clamp=conv_clamp)
        self.conv1 = Convolution(in_channels, out_channels, 3, down=True, conv_clamp=conv_clamp)
        self.skip = Convolution(in_channels, out_channels, 1, bias=False, activate=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, I, H, H)`` (or an image ``(N, 3, H, H)``) to ``(N, O, H / 2, H / 2)``."""
        if self.reads_image:
            x = self.fromrgb(x)
        shortcut: Tensor = self.skip(x, gain=math.sqrt(0.5))
        x = self.conv1(self.conv0(x), gain=math.sqrt(0.5))
        return shortcut + x


class Epilogue(nn.Module):
    """Minibatch standard deviation, a convolution and two linear layers: ``(N, C, 4, 4) -> (N, 1)``."""

    def __init__(self, channels: int, *, group: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.group = group
        self.conv = Convolution(channels + 1, channels, 3, conv_clamp=conv_clamp)
        self.fc = FullyConnected(channels * 16, channels, activate=True)
        self.out = FullyConnected(channels, 1)

    def forward(self, x: Tensor, spread: Tensor | None = None) -> Tensor:
        """Logits ``(N, 1)``; ``spread``, a scalar, replaces the batch's own (see :meth:`spread_of`)."""
        spread = self.spread_of(x) if spread is None else spread.expand(x.shape[0])
        channel = spread.to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        x = self.conv(torch.cat([x, channel], dim=1))
        logits: Tensor = self.out(self.fc(x.flatten(1).float()))
        return logits

    def spread_of(self, x: Tensor) -> Tensor:
        """For each image the mean standard deviation within its group, ``(N,)``.

        Image ``i`` belongs to group ``i mod (N / group)``. The score of an image therefore depends on its batch.
        """
        n = x.shape[0]
        group = min(self.group, n)
        if n % group:
            raise ValueError(f"the batch ({n}) must be a multiple of the group of {group} images")
        grouped = x.float().reshape(group, n // group, *x.shape[1:])
        deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (N / group,)
        return deviation.repeat(group)


class Discriminator(nn.Module):
    """Images ``(N, 3, R, R)``, nominally in [-1, 1], to logits ``(N, 1)``, higher is more realistic."""

    def __init__(
        self,
        *,
        resolution: int = 64,
        channel_base: int = 16384,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        group: int = 4,
    ) -> None:
        super().__init__()
        self.resolutions = [2**power for power in range(int(math.log2(resolution)), 2, -1)]
        for size in self.resolutions:
            block = DiscriminatorBlock(
                channels_at(size, channel_base, channel_max),
                channels_at(size // 2, channel_base, channel_max),
                reads_image=size == resolution,
                conv_clamp=conv_clamp,
            )
            setattr(self, f"b{size}", block)
        self.b4 = Epilogue(channels_at(4, channel_base, channel_max), group=group, conv_clamp=conv_clamp)

    def forward(self, images: Tensor, *, dtype: torch.dtype = torch.float32, spread: Tensor | None = None) -> Tensor:
        """Logits ``(N, 1)``, float32; ``dtype`` is that of the convolutions.

        N must be a multiple of the minibatch group, unless ``spread`` (a scalar) stands for the batch's own spread:
        then an image's score does not depend on the others.
        """
        logits: Tensor = self.b4(self._trunk(images, dtype), spread)
        return logits

    def spread(self, images: Tensor) -> Tensor:
        """The mean spread of a batch, a scalar, to be given to :meth:`forward`."""
        return self.b4.spread_of(self._trunk(images, torch.float32)).mean()

    def _trunk(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        x = images.to(dtype).contiguous(memory_format=torch.channels_last)
        for size in self.resolutions:
            x = getattr(self, f"b{size}")(x)
        return x
