"""Classifiers of torchvision as targets, by the names they have there: the 224-pixel family of Plug & Play Attacks.

The networks are torchvision's own, key for key. Only the final linear layer is another class with the same two
tensors: it hands back its input, the penultimate features, besides the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mibench.api import ClassifierOutput, MibenchError

from .narrowing import SIXTEENTHS, narrowed, sixteenths
from .shortcuts import weaken

SIZE = 224
LEAST_SIZE = 32  # five halvings leave one pixel
VIT_HIDDEN, VIT_MLP, VIT_HEADS, VIT_LAYERS, VIT_PATCH = 768, 3072, 12, 12, 16  # ViT-B/16


class Head(nn.Linear):
    """A final linear layer that returns its input beside its output; weights and keys are those of ``nn.Linear``."""

    def forward(self, features: Tensor) -> ClassifierOutput:  # type: ignore[override]
        """Features ``(N, D)`` and logits ``(N, C)`` of features ``(N, D)``."""
        return ClassifierOutput(features, super().forward(features))


def with_head(network: nn.Module, final: str) -> nn.Module:
    """The network with its final linear layer ``final`` (a dotted name) as a :class:`Head`, weights unchanged."""
    old = network.get_submodule(final)
    if not isinstance(old, nn.Linear):
        raise MibenchError(f"the final layer {final!r} is {type(old).__name__}, not a linear layer")
    where = old.weight.device
    head = Head(old.in_features, old.out_features, bias=old.bias is not None, device=where)
    head.load_state_dict(old.state_dict(), assign=where.type == "meta")
    parent, _, attribute = final.rpartition(".")
    setattr(network.get_submodule(parent), attribute, head)
    return network


@dataclass(frozen=True)
class Architecture:
    """A classifier of torchvision. Calling it builds the network with fresh weights.

    Images ``(N, 3, size, size)``, normalised as the card says (the published recipe: to [-1, 1]), give features
    ``(N, D)``, the input of the final linear layer, and raw logits ``(N, num_classes)``.

    Attributes:
        builder: its name in ``torchvision.models``.
        final: the final linear layer, a dotted name.
    """

    builder: str
    final: str = "fc"

    def __call__(
        self,
        num_classes: int,
        width: float = 1.0,
        *,
        size: int = SIZE,
        skip: Sequence[float] | None = None,
        released_split: bool = False,
    ) -> nn.Module:
        """Build it.

        Args:
            num_classes: number of logits.
            width: multiplies every channel count, rounded to sixteenths; 1 is the published network.
            size: side of the images in pixels, 32 or more.
            skip, released_split: how much its shortcuts count, see :func:`~.shortcuts.weaken`; None: as published.
        """
        if size < LEAST_SIZE:
            raise MibenchError(f"{self.builder} halves its images five times: size must be at least 32, got {size}")
        network = self._network(num_classes, sixteenths(width), size)
        if skip is not None:
            weaken(network, skip, released_split=released_split)
        return with_head(network, self.final)

    def _network(self, num_classes: int, parts: int, size: int) -> nn.Module:
        from torchvision import models

        build = getattr(models, self.builder)
        if parts == SIXTEENTHS:
            network: nn.Module = build(weights=None, num_classes=num_classes)
            return network
        with torch.device("meta"):
            skeleton = build(weights=None, num_classes=num_classes)
        return narrowed(skeleton, parts, outputs={self.final})


@dataclass(frozen=True)
class VisionTransformer(Architecture):
    """ViT-B/16 of torchvision; features are the 768 numbers of the class token after the last norm.

    ``size`` is a multiple of 16 and belongs to the weights: there is a position for every patch.
    """

    builder: str = "vit_b_16"
    final: str = "heads.head"

    def _network(self, num_classes: int, parts: int, size: int) -> nn.Module:
        from torchvision import models

        if size % VIT_PATCH:
            raise MibenchError(
                f"{self.builder} cuts patches of {VIT_PATCH} pixels: size must be a multiple, got {size}"
            )
        network: nn.Module = models.VisionTransformer(
            image_size=size,
            patch_size=VIT_PATCH,
            num_layers=VIT_LAYERS,
            num_heads=VIT_HEADS,
            hidden_dim=VIT_HIDDEN * parts // SIXTEENTHS,
            mlp_dim=VIT_MLP * parts // SIXTEENTHS,
            num_classes=num_classes,
        )
        return network


RESNET18 = Architecture("resnet18")
RESNET34 = Architecture("resnet34")
RESNET50 = Architecture("resnet50")
RESNET101 = Architecture("resnet101")
RESNET152 = Architecture("resnet152")
RESNEXT50 = Architecture("resnext50_32x4d")
RESNEXT101 = Architecture("resnext101_32x8d")
DENSENET121 = Architecture("densenet121", "classifier")
DENSENET161 = Architecture("densenet161", "classifier")
DENSENET169 = Architecture("densenet169", "classifier")
DENSENET201 = Architecture("densenet201", "classifier")
VIT_B_16 = VisionTransformer()
