"""What own models of every kind share: the order of channels going in, roles coming out, and the guard around them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mibench.api import ClassifierOutput, Network, foreign

from .outputs import dense, read, rows, tensors_of


class OwnNetwork(Network, nn.Module, ABC):
    """A model that somebody brought, behind the face of every classifier here.

    Args:
        num_classes: C.
        outputs: the role of each tensor that the model returns (see :mod:`~mibench.targets.custom.outputs`).
        channel_order: ``rgb`` or ``bgr``: of the images that the model takes.
    """

    from_user: ClassVar[bool] = True
    called: str = "the model"  # in messages

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
        """What the model itself returns for normalised images ``(N, 3, H, W)`` in its own order of channels.

        It may write to them: they are a copy.
        """

    def captured(self) -> Tensor | None:
        """Features ``(N, D)`` taken from inside the model during the last :meth:`answer`; None: it returns them."""
        return None

    def asked(self, images: Tensor, *, failing: str | None = None) -> list[Tensor]:
        """Every tensor that the model returns for normalised RGB images ``(N, 3, H, W)``, as copies.

        Exceptions of the model pass unless ``failing`` says what stands before them in a message.

        Raises:
            MibenchError: it does what no model may (:func:`mibench.system.foreign_code.foreign`), or returns a tensor
                that is not dense.
        """
        with foreign(self.called, f"on images {tuple(images.shape)}", failing=failing):
            own = images.flip(1) if self.channel_order == "bgr" else images.clone()
            # Copies: some models fill the same tensors anew in every call.
            return [dense(tensor).to(images.device).clone() for tensor in tensors_of(self.answer(own))]

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` (the logits where there are none) and raw logits ``(N, C)``, float32.

        Raises:
            MibenchError: the model fails, or does not return one row for each image.
        """
        tensors = self.asked(images, failing=f"{self.called} cannot run on images {tuple(images.shape)}")
        features, logits = read(tensors, self.outputs, len(images), self.num_classes)
        inside = self.captured()
        if inside is not None:
            features = rows(inside, len(images))
        return ClassifierOutput(logits if features is None else features, logits)
