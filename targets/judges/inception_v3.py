"""Inception-v3 at 299 pixels: the evaluation classifier of Plug & Play Attacks. Only the referee loads it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mibench.api import MibenchError
from mibench.targets.networks.narrowing import SIXTEENTHS, narrowed, sixteenths
from mibench.targets.networks.torchvision_networks import with_head

SIZE = 299
LEAST_SIZE = 75
FINAL, AUXILIARY = "fc", "AuxLogits"


@dataclass(frozen=True)
class Inception:
    """torchvision's Inception-v3, key for key; features are 2,048 numbers at width 1. Calling it builds the network.

    Images ``(N, 3, size, size)``, normalised as the card says (the published recipe: to [-1, 1]), give features
    ``(N, D)``, the input of the final linear layer (after the pooling, in eval mode), and raw logits ``(N,
    num_classes)``. In training mode, with its auxiliary classifier, it gives that pair and the auxiliary logits, as
    torchvision's ``InceptionOutputs``.
    """

    def __call__(
        self,
        num_classes: int,
        width: float = 1.0,
        *,
        size: int = SIZE,
        auxiliary: bool = True,
        transform_input: bool = False,
    ) -> nn.Module:
        """Build it.

        Args:
            num_classes: number of logits.
            width: multiplies every channel count, rounded to sixteenths; 1 is the published network.
            size: side of the images in pixels, 75 or more.
            auxiliary: carry the auxiliary classifier, which only training uses. It needs 299 pixels: a network for
                smaller images has none.
            transform_input: the affine step that torchvision puts in front of its ImageNet weights, and that networks
                which started from those may have been trained behind.
        """
        from torchvision.models import inception

        if size < LEAST_SIZE:
            raise MibenchError(f"inception_v3 takes images of at least {LEAST_SIZE} pixels, got {size}")
        parts = sixteenths(width)
        with torch.device("cpu" if parts == SIXTEENTHS else "meta"):
            network: nn.Module = inception.Inception3(
                num_classes=num_classes,
                aux_logits=auxiliary and size >= SIZE,
                transform_input=transform_input,
                init_weights=parts == SIXTEENTHS,
            )
        if parts != SIXTEENTHS:
            narrowed(network, parts, outputs={FINAL, f"{AUXILIARY}.fc"})
        return with_head(network, FINAL)


INCEPTION_V3 = Inception()
