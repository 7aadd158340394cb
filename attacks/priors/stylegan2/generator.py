"""The StyleGAN2 generator: mapping network, synthesis network, and both together.

Shapes: N images, Z latent and E style dimensions, L style vectors per image (``num_ws`` = 2 log2(resolution) - 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import FullyConnected, NoiseMode, SynthesisLayer, ToRGB, resampling_filter, upsample_image

W_AVG_DECAY = 0.995  # per batch, released code
MAPPING_LR_MULTIPLIER = 0.01  # released code


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Width of the layers at ``resolution``."""
    return min(channel_base // resolution, channel_max)


def normalise(z: Tensor) -> Tensor:
    """Scale latents ``(..., Z)`` to unit mean square."""
    z = z.float()
    return z * (z.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """Latents to styles, ``(N, Z) -> (N, E)``: normalisation and ``layers`` fully connected layers."""

    def __init__(self, *, z_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.num_layers = layers
        for index in range(layers):
            width = z_dim if index == 0 else w_dim
            layer = FullyConnected(width, w_dim, activate=True, lr_multiplier=MAPPING_LR_MULTIPLIER)
            setattr(self, f"fc{index}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))
        self.w_avg: Tensor

    def layers(self) -> list[FullyConnected]:
        """The fully connected layers in order."""
        return [getattr(self, f"fc{index}") for index in range(self.num_layers)]

    def forward(self, z: Tensor) -> Tensor:
        """Styles ``(N, E)`` before truncation."""
        w = normalise(z)
        for layer in self.layers():
            w = layer(w)
        return w

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Move the running mean of styles towards the mean of ``w (N, E)`` (training only)."""
        self.w_avg.lerp_(w.float().mean(dim=0), 1 - W_AVG_DECAY)

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """Pull ``w (..., E)`` towards the mean style: ``w_avg + psi (w - w_avg)``."""
        return w if psi == 1.0 else torch.lerp(self.w_avg, w.to(self.w_avg.dtype), psi)  # autocast leaves halves

    def broadcast(self, w: Tensor, num_ws: int, *, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Styles ``(N, L, E)`` for every layer, truncated in the first ``cutoff`` (None: in all)."""
        if psi == 1.0:
            return w[:, None].expand(-1, num_ws, -1)
        truncated = num_ws if cutoff is None else min(cutoff, num_ws)
        low = self.truncate(w, psi)[:, None].expand(-1, truncated, -1)
        return torch.cat([low, w[:, None].expand(-1, num_ws - truncated, -1)], dim=1)


class SynthesisBlock(nn.Module):
    """The layers at one resolution; the first block starts from a learned constant."""

    def __init__(
        self, in_channels: int, out_channels: int, *, w_dim: int, resolution: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", resampling_filter())
        self.first = in_channels == 0
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim=w_dim, resolution=resolution, up=True, conv_clamp=conv_clamp
            )
        self.conv1 = SynthesisLayer(
            out_channels, out_channels, w_dim=w_dim, resolution=resolution, conv_clamp=conv_clamp
        )
        self.torgb = ToRGB(out_channels, w_dim=w_dim, conv_clamp=conv_clamp)


class Synthesis(nn.Module):
    """Styles to images, ``(N, L, E) -> (N, 3, R, R)``, unbounded, nominally in [-1, 1]; skip architecture."""

    def __init__(
        self, *, w_dim: int, resolution: int, channel_base: int, channel_max: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.resolutions = [2**power for power in range(2, int(math.log2(resolution)) + 1)]
        self.num_ws = 2 * len(self.resolutions)
        in_channels = 0
        for size in self.resolutions:
            out_channels = channels_at(size, channel_base, channel_max)
            block = SynthesisBlock(in_channels, out_channels, w_dim=w_dim, resolution=size, conv_clamp=conv_clamp)
            setattr(self, f"b{size}", block)
            in_channels = out_channels

    def blocks(self) -> list[SynthesisBlock]:
        """The blocks, from 4x4 upwards."""
        return [getattr(self, f"b{size}") for size in self.resolutions]

    def layers(self) -> list[SynthesisLayer]:
        """The 3x3 convolutions in order."""
        return [module for module in self.modules() if isinstance(module, SynthesisLayer)]

    def freeze(self) -> None:
        """Keep what depends on the weights alone (see :meth:`SynthesisLayer.freeze`)."""
        for layer in self.layers():
            layer.freeze()

    def forward(
        self,
        ws: Tensor,
        *,
        noise_mode: NoiseMode = "const",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Images ``(N, 3, R, R)``, float32. ``dtype`` is that of the convolutions; ``generator`` draws random noise."""
        image = self.through(ws, noise_mode=noise_mode, generator=generator, dtype=dtype)[1]
        assert image is not None
        return image

    def through(
        self,
        ws: Tensor,
        x: Tensor | None = None,
        image: Tensor | None = None,
        *,
        first: int = 0,
        end: int | None = None,
        noise_mode: NoiseMode = "const",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor | None]:
        """Features and image behind blocks ``first`` to ``end - 1`` (None: the last).

        Args:
            ws: styles ``(N, L, E)`` of all layers.
            x: features behind the block before ``first``, ``(N, C, R, R)``; None at block 0.
            image: the image there ``(N, 3, R, R)``; None: it starts at ``first``.
            first, end: numbers of blocks, from 0.
            noise_mode, generator, dtype: as in :meth:`forward`.
        """
        styles = ws.float().unbind(dim=1)
        index = max(0, 2 * first - 1)
        for block in self.blocks()[first:end]:
            if block.first:
                x = block.const.to(dtype).expand(ws.shape[0], -1, -1, -1)
                x = x.contiguous(memory_format=torch.channels_last)
            else:
                assert x is not None
                x = block.conv0(x, styles[index], noise_mode, generator)
                index += 1
            x = block.conv1(x, styles[index], noise_mode, generator)
            index += 1
            colours = block.torgb(x, styles[index])
            image = colours if image is None else upsample_image(image) + colours
        assert x is not None
        return x, image


class Generator(nn.Module):
    """StyleGAN2 generator. ``conv_clamp`` bounds activations (256 in networks trained in half precision)."""

    def __init__(
        self,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        resolution: int = 64,
        channel_base: int = 16384,
        channel_max: int = 512,
        mapping_layers: int = 8,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.resolution = z_dim, w_dim, resolution
        self.synthesis = Synthesis(
            w_dim=w_dim,
            resolution=resolution,
            channel_base=channel_base,
            channel_max=channel_max,
            conv_clamp=conv_clamp,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = Mapping(z_dim=z_dim, w_dim=w_dim, layers=mapping_layers)

    def forward(
        self,
        z: Tensor,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: NoiseMode = "const",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Images ``(N, 3, R, R)`` from latents ``(N, Z)``."""
        ws = self.mapping.broadcast(self.mapping(z), self.num_ws, psi=psi, cutoff=cutoff)
        images: Tensor = self.synthesis(ws, noise_mode=noise_mode, generator=generator, dtype=dtype)
        return images
