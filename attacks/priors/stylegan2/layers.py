"""Layers of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, and its "ADA" PyTorch release, arXiv:2006.06676).

State-dict names, shapes and outputs are those of the released networks, so released weights load strictly. Modulated
convolutions are computed in another order than in the release: the input is scaled by the style, ONE convolution with
shared weights serves the whole batch, and the output is scaled by the demodulation factor. That is the same linear
map (equal to float32 rounding) without per-sample weights, which cost 2 to 4 times as much on a CPU.

Shapes: N images, I input and O output channels, H = W pixels, E style dimensions (``w_dim``).
Every forward computes in the dtype of the activations ``x``; styles and demodulation stay in float32.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

NoiseMode = Literal["const", "random", "none"]

SLOPE = 0.2  # of every leaky ReLU
GAIN = math.sqrt(2)  # of every leaky ReLU, keeps the variance
_TAPS = (1.0, 3.0, 3.0, 1.0)  # of the resampling filter, along each axis


def resampling_filter() -> Tensor:
    """The low-pass filter ``(4, 4)`` of every resampling, outer([1,3,3,1], [1,3,3,1]) / 64: symmetric, sums to 1."""
    taps = torch.tensor(_TAPS)
    return torch.outer(taps, taps) / taps.sum() ** 2


class _LowPass(torch.autograd.Function):
    """Depthwise filter whose gradient is the same filter: the built-in one also works towards the filter's weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return functional.conv2d(x, weight, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        # a symmetric filter of 4 taps is its own adjoint when the paddings add up to 3
        return _LowPass.apply(gradients[0], weight, 3 - ctx.padding), None, None


def low_pass(x: Tensor, filter_44: Tensor, *, padding: int, gain: float = 1.0) -> Tensor:
    """Filter each channel of ``x (N, C, H, W)``, padded by zeros: size H + 2 padding - 3. Twice differentiable in x."""
    weight = (filter_44 * gain).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    filtered: Tensor = _LowPass.apply(x, weight, padding)
    return filtered


def upsample_image(image: Tensor) -> Tensor:
    """Double ``(N, C, H, W)``: zeros inserted, low-pass filtered with gain 4.

    The phases of the filter are (1/4, 3/4) and (3/4, 1/4), those of bilinear interpolation; only the border differs,
    where the release pads by zeros.
    """
    padded = functional.pad(image, (1, 1, 1, 1))
    return functional.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


class FullyConnected(nn.Module):
    """Equalised linear layer ``(N, I) -> (N, O)``: the raw weights have unit variance over ``lr_multiplier``.

    Effective weight = weight * lr_multiplier / sqrt(I), effective bias = bias * lr_multiplier.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activate: bool = False,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.bias_gain == 1.0 else self.bias * self.bias_gain
        x = functional.linear(x, (self.weight * self.weight_gain).to(x.dtype), bias.to(x.dtype))
        return functional.leaky_relu(x, SLOPE) * GAIN if self.activate else x


def clamp_(x: Tensor, bound: float | None) -> Tensor:
    """Clamp to ``[-bound, bound]``, or leave as it is."""
    return x if bound is None else x.clamp(-bound, bound)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; ``up`` doubles the size (transposed convolution, filter)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        up: bool = False,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up = up
        self.resolution = resolution
        self.noisy = True
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("resample_filter", resampling_filter())
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.resample_filter: Tensor
        self.noise_const: Tensor
        self.register_buffer("_energy", None, persistent=False)  # (I, O): squared taps summed, of frozen weights
        self._energy: Tensor | None

    def freeze(self) -> None:
        """Compute what depends on the weights alone; call it once the weights are final."""
        with torch.no_grad():
            self._energy = self.weight.square().sum(dim=(2, 3)).t().contiguous()

    def silence(self) -> None:
        """Add no noise, for good: zero strength, which is not trained."""
        with torch.no_grad():
            self.noise_strength.requires_grad_(False).zero_()
        self.noisy = False

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise_mode: NoiseMode = "const",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``(N, I, H, H)`` and ``(N, E)`` to ``(N, O, R, R)``, R = 2H when ``up``."""
        styles = self.affine(w)
        energy = self._energy if self._energy is not None else self.weight.square().sum(dim=(2, 3)).t()
        # sqrt(2) of the activation moves before the leaky ReLU, which is positively homogeneous
        demodulation = (styles.square() @ energy + 1e-8).rsqrt() * GAIN
        weight = self.weight.to(x.dtype)
        x = x * styles.to(x.dtype)[:, :, None, None]
        if self.up:
            x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = low_pass(x, self.resample_filter, padding=1, gain=4.0)
        else:
            x = functional.conv2d(x, weight, padding=1)
        offset = (self.bias * GAIN)[None, :, None, None]
        if noise_mode == "const":
            offset = offset + self.noise_const * (self.noise_strength * GAIN)
        # the first operand decides the memory order of the result
        offset = offset.to(x.dtype).contiguous(memory_format=torch.channels_last)
        x = torch.addcmul(offset, x, demodulation.to(x.dtype)[:, :, None, None])
        if noise_mode == "random" and self.noisy:
            noise = torch.randn(x.shape[0], 1, *x.shape[2:], generator=generator, device=x.device)
            x = x + (noise * (self.noise_strength * GAIN)).to(x.dtype)
        return clamp_(functional.leaky_relu_(x, SLOPE), self.conv_clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, without demodulation or activation."""

    def __init__(self, in_channels: int, *, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.style_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``(N, I, H, H)`` and ``(N, E)`` to float32 ``(N, 3, H, H)``."""
        styles = self.affine(w) * self.style_gain
        # three output channels: per-sample weights cost less here than a scaled copy of x
        weight = (self.weight[None, :, :, 0, 0] * styles[:, None, :]).to(x.dtype)  # (N, 3, I)
        n, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        colours = torch.bmm(pixels, weight.transpose(1, 2)).float() + self.bias
        return clamp_(colours, self.conv_clamp).view(n, height, width, 3).permute(0, 3, 1, 2)


class Convolution(nn.Module):
    """Equalised convolution of the discriminator, bias, leaky ReLU; ``down`` halves the size (filter, then stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bias: bool = True,
        activate: bool = True,
        down: bool = False,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.activate = activate
        self.down = down
        self.conv_clamp = conv_clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel * kernel)
        self.register_buffer("resample_filter", resampling_filter())
        self.resample_filter: Tensor

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """``(N, I, H, H)`` to ``(N, O, R, R)``, R = H / 2 when ``down``; the output is multiplied by ``gain``."""
        total = gain * (GAIN if self.activate else 1.0)
        weight = (self.weight * (self.weight_gain * total)).to(x.dtype)
        bias = None if self.bias is None else (self.bias * total).to(x.dtype)
        if not self.down:
            x = functional.conv2d(x, weight, bias, padding=self.kernel // 2)
        elif self.kernel == 1:
            # filter everywhere, drop in the convolution: the strided filter's gradient is 10 times slower on a CPU
            x = functional.conv2d(low_pass(x, self.resample_filter, padding=1), weight, bias, stride=2)
        else:
            x = functional.conv2d(low_pass(x, self.resample_filter, padding=2), weight, bias, stride=2)
        if self.activate:
            x = functional.leaky_relu_(x, SLOPE)
        return clamp_(x, None if self.conv_clamp is None else self.conv_clamp * gain)
