"""What a victim answers, whatever it grants: probabilities of the classes, or a vote for one of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import one_hot

from mibench.api import Access, Victim

Answered = Callable[[Victim, Tensor], Tensor]  # (victim, images (N, 3, H, W)) to confidence in every class (N, C)


def confidence_in_classes(victim: Victim, images: Tensor) -> Tensor:
    """Confidence ``(N, C)`` in every class for images ``(N, 3, H, W)``.

    With scores it is their softmax. With labels only it is 1 for the class that the victim names and 0 for the others:
    the mean over views of an image is then the share of views that the victim still calls so.
    """
    if victim.access >= Access.SCORES:
        return victim.scores(images)
    return one_hot(victim.labels(images), victim.num_classes).float()
