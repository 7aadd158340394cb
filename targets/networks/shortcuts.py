"""Weakened shortcuts in torchvision's residual and dense networks, without another key in their state.

The published weights of these networks load into the weakened ones: what is no longer used stays where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mibench.api import MibenchError

STAGES = 4
RELEASED_SPLIT = 0.8  # of the units of the third stage, which the released code lets keep their shortcuts


@runtime_checkable
class Weakened(Protocol):
    """A part of a network whose shortcut counts less than it was published with, unless ``weakened`` is False."""

    weakened: bool


class ScaledShortcut(nn.Sequential):
    """A shortcut, times a factor. Without layers it is the identity; 0 leaves it out, projection and all.

    Attributes:
        weakened: False: the shortcut counts whole, as in the published network.
    """

    def __init__(self, factor: float, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.factor, self.weakened = factor, True

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the shape of the unit's output, or to a single 0."""
        if self.weakened and self.factor == 0:
            return images.new_zeros(())
        for layer in self:
            images = layer(images)
        return self.factor * images if self.weakened else images


class KeptChannels(nn.ReLU):
    """ReLU, after which only some channels count: the rest is 0, as if the next convolution did not read it.

    Args:
        kept: bool ``(C,)``.

    Attributes:
        weakened: False: all channels count.
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__(inplace=True)
        self.register_buffer("kept", kept.view(1, -1, 1, 1), persistent=False)
        self.weakened = True

    def forward(self, maps: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same shape."""
        positive = super().forward(maps)
        return positive * self.kept if self.weakened else positive


def weaken(network: nn.Module, skip: Sequence[float], *, released_split: bool = False) -> None:
    """Weaken the shortcuts of a ResNet, ResNeXt or DenseNet of torchvision, stage by stage, in place.

    Args:
        network: it.
        skip: of each of the four stages. A residual unit becomes ``relu(F(x) + skip * shortcut(x))``. In a dense block
            a layer reads, of every feature map but the newest, the first ``round(skip * channels)`` channels.
        released_split: as in the released code, the last fifth of the third stage's units has no shortcut, whatever
            ``skip`` says.

    Raises:
        MibenchError: not four factors, or a network of another kind.
    """
    if len(skip) != STAGES:
        raise MibenchError(f"skip needs a factor for each of the {STAGES} stages, got {list(skip)}")
    names = dict(network.named_children())
    if "layer4" in names:
        for stage, factor in enumerate(skip, start=1):
            _weaken_units(network.get_submodule(f"layer{stage}"), factor, split=released_split and stage == 3)
    elif "features" in names and hasattr(names["features"], "denseblock4") and not released_split:
        for stage, factor in enumerate(skip, start=1):
            _weaken_block(network.get_submodule(f"features.denseblock{stage}"), factor)
    else:
        raise MibenchError(f"{type(network).__name__} has no shortcuts that can be weakened like this")


def _weaken_units(stage: nn.Module, factor: float, *, split: bool) -> None:
    units = list(stage.children())
    keep = int(RELEASED_SPLIT * len(units)) if split else len(units)
    for number, unit in enumerate(units):
        own = factor if number < keep else 0.0
        if own != 1:
            projection = unit.downsample.children() if isinstance(unit.downsample, nn.Module) else ()
            unit.downsample = ScaledShortcut(own, *projection)


def _weaken_block(block: nn.Module, factor: float) -> None:
    if factor == 1:
        return
    maps: list[int] = []  # channels of every feature map that a layer reads
    for layer in block.children():
        assert isinstance(layer.conv1, nn.Conv2d)
        maps.append(layer.conv1.in_channels - sum(maps))
        counts = [*(round(factor * channels) for channels in maps[:-1]), maps[-1]]
        kept = [torch.arange(channels) < count for channels, count in zip(maps, counts, strict=True)]
        layer.relu1 = KeptChannels(torch.cat(kept))
