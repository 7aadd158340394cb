"""PReLU with one slope per channel, fast on CPUs in both directions.

torch's own backward pass is not vectorised on a CPU: it took a third of an IR network's training step and a fifth of
its attack step. Written with vectorised primitives (``torch.where`` is not one of them) it is 3 to 7 times faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _SlopedRectifier(torch.autograd.Function):
    """``max(x, 0) + slope * min(x, 0)`` for ``x`` ``(N, C, ...)`` and ``slope`` ``(C,)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: Tensor) -> Tensor:
        return torch.addcmul(x.clamp_min(0), x.clamp_max(0), _per_channel(slope, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        (gradient,) = gradients
        x, slope = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradient, x, 0)
        for_x = torch.addcmul(above, gradient - above, _per_channel(slope, x))
        if not ctx.needs_input_grad[1]:
            return for_x, None
        # The sum over images and pixels as a matrix product: a reduction over a channels_last tensor is slow.
        products = (gradient * x.clamp_max(0)).movedim(1, -1).reshape(-1, x.shape[1])
        for_slope = (products.new_ones(1, products.shape[0]) @ products).squeeze(0)
        return for_x, for_slope.to(slope.dtype)


def _per_channel(slope: Tensor, x: Tensor) -> Tensor:
    return slope.to(x.dtype).view(-1, *([1] * (x.dim() - 2)))


class ChannelPReLU(nn.PReLU):
    """``nn.PReLU(channels)``: same parameters, keys and values; see the module's docstring for why it exists."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H, W)``."""
        if images.device.type != "cpu":
            return super().forward(images)
        result: Tensor = _SlopedRectifier.apply(images, self.weight)
        return result
