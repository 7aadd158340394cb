"""Narrow variants of networks that come in one width only: every channel count in sixteenths of the published one."""

from __future__ import annotations

import math
from collections.abc import Collection

from torch import nn

from mibench.api import MibenchError

from .ir import Projection

SIXTEENTHS = 16  # every channel count of the networks here is a multiple of 16, so that sums of channels stay exact


def sixteenths(width: float) -> int:
    """A width multiplier in sixteenths, rounded, 1 at least; 16 is the published network."""
    if not (math.isfinite(width) and width > 0):
        raise MibenchError(f"width must be a positive number, got {width}; 1.0 is the published network")
    return max(1, round(width * SIXTEENTHS))


def narrowed(skeleton: nn.Module, parts: int, *, outputs: Collection[str]) -> nn.Module:
    """Replace every convolution, norm and linear layer of a network by one with ``parts / 16`` of its channels.

    Args:
        skeleton: a network whose channels flow through convolutions, norms, linear layers and concatenations; its own
            weights are not used (build it on torch's ``meta`` device). Changed in place.
        parts: of sixteen.
        outputs: names of the linear layers whose outputs are classes: those are not scaled.

    Returns:
        The same network with new weights: Kaiming normal for convolutions, torch's own for the rest.
    """
    for name, module in list(skeleton.named_modules()):
        if (layer := _narrow(module, parts, classes=name in outputs)) is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(skeleton.get_submodule(parent), attribute, layer)
    return skeleton


def _narrow(module: nn.Module, parts: int, *, classes: bool) -> nn.Module | None:
    def scaled(channels: int) -> int:
        return channels * parts // SIXTEENTHS

    if isinstance(module, nn.Conv2d):
        before = module.in_channels if module.in_channels == 3 else scaled(module.in_channels)  # 3: the image
        after = scaled(module.out_channels)
        layer: nn.Conv2d
        if module.kernel_size == (1, 1) and max(module.stride) > 1:  # ResNet's shortcuts, see there for why
            layer = Projection(before, after, module.stride[0])
        else:
            layer = nn.Conv2d(
                before,
                after,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                math.gcd(module.groups, before, after),
                bias=module.bias is not None,
            )
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return layer
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm2d(scaled(module.num_features), eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.Linear):
        return nn.Linear(scaled(module.in_features), module.out_features if classes else scaled(module.out_features))
    return None
