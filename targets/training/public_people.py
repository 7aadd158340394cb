"""The recipe of a public backbone: a target's network, trained to tell public people apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mibench.api import MibenchError, TrainedWeights, TrainingContext
from mibench.data.split import Images

from .backbones import without_classifier
from .recipes import TrainClassifier


@dataclass(frozen=True, kw_only=True)
class TrainBackbone(TrainClassifier):
    """The plain recipe of a target on labelled *public* people; its classifier is thrown away.

    What defences like transfer learning need: features that no private image has touched. The recipe is handed public
    images only.
    """

    kind: ClassVar[str] = "backbone"
    needs: ClassVar[str] = "public+identities"
    trains: ClassVar[str] = "target"

    identities: int = 2000  # at most so many public people, the first that have two images or more; 0: all
    held_out: float = 0.2  # share of each person's images that measures; one at least

    def check(self, images: int | None = None) -> None:
        """Raise where a setting makes no sense."""
        super().check(images)
        if self.identities < 0 or self.identities == 1:
            raise MibenchError(f"identities must be 2 or more, or 0 for all, got {self.identities}")
        if not 0 < self.held_out < 1:
            raise MibenchError(f"held_out must lie between 0 and 1, got {self.held_out}")

    def parts(self, data: Callable[[int], Images]) -> tuple[Images, Images, int]:
        """Public images of the chosen people, labelled by the order in which they first appear."""
        public = data(self.size)
        labels, held = labelled_people(public.identities, self.identities, self.held_out)
        classes = int(labels.max()) + 1
        if classes < 2:
            raise MibenchError(
                "no two public people have two images each, so there is nothing to tell apart",
                cure=(
                    "choose a data set whose public images carry identities, or import a published backbone "
                    "(mibench import)"
                ),
            )
        return chosen(public, labels, ~held), chosen(public, labels, held), classes

    def run(self, data: Any, context: TrainingContext) -> TrainedWeights:
        """Train on public people, from the checkpoint when there is one."""
        trained = super().run(data, context)
        return replace(
            trained,
            arguments={name: value for name, value in trained.arguments.items() if name != "num_classes"},
            weights=without_classifier(trained.weights),
            classes=None,
            measured={"identities": trained.classes, **trained.measured},
        )


def labelled_people(identities: tuple[str, ...], most: int, share: float) -> tuple[Tensor, Tensor]:
    """Labels of images by who is on them, and which images are held out.

    Args:
        identities: the key of each image.
        most: so many people get a label, the first of those with two images or more; 0: all of those.
        share: of a person's images that are held out, the last ones: one at least, never all.

    Returns:
        int64 ``(N,)``, -1 for images of nobody chosen, and bool ``(N,)``.
    """
    images: dict[str, list[int]] = {}
    for index, identity in enumerate(identities):
        images.setdefault(identity, []).append(index)
    people = [indices for indices in images.values() if len(indices) > 1]
    labels = torch.full((len(identities),), -1)
    held = torch.zeros(len(identities), dtype=torch.bool)
    for label, indices in enumerate(people[: most or None]):
        labels[indices] = label
        held[indices[-min(max(1, round(share * len(indices))), len(indices) - 1) :]] = True
    return labels, held


def chosen(images: Images, labels: Tensor, side: Tensor) -> Images:
    """The labelled images of one side, in their order."""
    kept = ((labels >= 0) & side).nonzero().squeeze(1)
    return Images(images.pixels[kept], labels[kept], tuple(images.identities[index] for index in kept.tolist()))
