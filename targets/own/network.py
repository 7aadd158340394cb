"""What own models of every kind share: the order of channels going in, roles coming out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mibench.api import ClassifierOutput

from .outputs import read, tensors_of


class OwnNetwork(nn.Module, ABC):
    """A model that somebody brought, behind the face of every classifier here.

    Args:
        num_classes: C.
        outputs: the role of each tensor that the model returns (see :mod:`~mibench.targets.own.outputs`).
        channel_order: ``rgb`` or ``bgr``: of the images that the model takes.
    """

    brought: ClassVar[bool] = True  # built from what its card names, at no width and for no other number of classes
    access: ClassVar[Literal["labels", "scores", "gradients"]]  # the most that a model of this kind can give

    def __init__(
        self,
        num_classes: int,
        *,
        outputs: Sequence[str],
        channel_order: str = "rgb",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.outputs = tuple(outputs)
        self.channel_order = channel_order

    @abstractmethod
    def answer(self, images: Tensor) -> Any:
        """What the model itself returns for normalised images ``(N, 3, H, W)`` in its own order of channels."""

    def captured(self) -> Tensor | None:
        """Features ``(N, D)`` taken from inside the model during the last :meth:`answer`; None: it returns them."""
        return None

    def asked(self, images: Tensor) -> list[Tensor]:
        """Every tensor that the model returns for normalised RGB images ``(N, 3, H, W)``."""
        return tensors_of(self.answer(images.flip(1) if self.channel_order == "bgr" else images))

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` (the logits where there are none) and raw logits ``(N, C)``, float32."""
        features, logits = read(self.asked(images), self.outputs)
        inside = self.captured()
        if inside is not None:
            features = inside.float().flatten(1)
        return ClassifierOutput(logits if features is None else features, logits)
