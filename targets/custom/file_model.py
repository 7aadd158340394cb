"""Models that come as one file, a graph or a program: black boxes that give scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import AccessName

from .network import OwnNetwork


class SealedNetwork(OwnNetwork):
    """A network whose only tensor is its file, so that a card's hash covers it like any weights.

    Args:
        num_classes, outputs, channel_order: as :class:`~mibench.targets.custom.network.OwnNetwork`.
        bytes: length of the file.
    """

    access: ClassVar[AccessName] = "scores"
    file: Tensor

    def __init__(
        self, num_classes: int, *, bytes: int, outputs: Sequence[str] = (), channel_order: str = "rgb"
    ) -> None:
        super().__init__(num_classes, outputs=outputs, channel_order=channel_order)
        self.register_buffer("file", torch.zeros(bytes, dtype=torch.uint8))
