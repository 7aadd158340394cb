"""Accuracy of a classifier: counted in one way everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """``right`` of ``images`` images have their largest logit at their label; none is dropped."""

    right: int
    images: int

    @property
    def value(self) -> float:
        """In [0, 1]."""
        return self.right / self.images

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
        """Count over batches of logits ``(B, C)`` and labels, int64 ``(B,)``, on the same device.

        It waits for the device once, at the end.
        """
        right, images = 0, 0
        counts: list[Tensor] = []
        for logits, labels in batches:
            counts.append((logits.argmax(dim=1) == labels).sum())
            images += len(labels)
        if counts:
            right = int(sum(counts[1:], start=counts[0]))
        return cls(right=right, images=images)
