"""What filters with weights of their own share: settings of their training, its loop, and how the weights come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mibench.api import AnswerFilter, MibenchError, ReferenceAnswers, load_strictly
from mibench.rng import Streams

LEARNING_RATE = 1e-3  # Adam


@dataclass(frozen=True, kw_only=True)
class LearntFilter(AnswerFilter):
    """A filter that is trained on public images when its card is made.

    Attributes:
        images: public ones to learn from, the first.
        epochs, batch_size: of the training, by Adam at 1e-3.
        seed: of the initial weights and the order.
    """

    images: int = 5000
    epochs: int = 20
    batch_size: int = 128
    seed: int = 0

    @property
    def reference_images(self) -> int:
        """The setting ``images``."""
        return self.images

    def check(self) -> None:
        """Raise where a setting of the training makes no sense."""
        for name in ("images", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise MibenchError(f"defence.{name} must be 1 or more, got {getattr(self, name)}")
        if self.seed < 0:
            raise MibenchError(f"defence.seed must be 0 or more, got {self.seed}")

    def scores(self, scores: Tensor, images: Tensor) -> Tensor:
        """Refused: it has learnt nothing yet."""
        raise MibenchError(f"the filter {self.name!r} has no weights yet", cure="mibench train makes them")

    def trained(
        self, network: nn.Module, reference: ReferenceAnswers, loss_of: Callable[[Tensor], Tensor]
    ) -> Mapping[str, Tensor]:
        """The weights of a network, on the reference's device, after the training.

        Args:
            loss_of: the mean loss over some rows of the reference, int64 ``(B,)`` on the CPU.
        """
        optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        streams = Streams(self.seed, (self.name,))
        with torch.enable_grad():
            for epoch in range(self.epochs):
                order = torch.randperm(len(reference.scores), generator=streams.generator("order", epoch))
                for rows in order.split(self.batch_size):
                    loss = loss_of(rows)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                reference.progress(epoch + 1, self.epochs, f"loss {loss.item():.4f}")
        return network.state_dict()

    def restored(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Put weights into a network that is to answer with them, frozen.

        Raises:
            MisfitError: they are those of other settings.
        """
        load_strictly(
            network,
            weights,
            message=lambda mismatch: f"weights of the filter {self.name!r} do not fit it: {mismatch.summary()}",
        )
        network.eval().requires_grad_(False)
