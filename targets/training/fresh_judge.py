"""The recipe of a second judge: it learns from fresh pictures of the people, of which no target has seen any."""

from __future__ import annotations

from dataclasses import dataclass

from mibench.api import MibenchError
from mibench.data.split import IdentitySplit, Images

from .recipes import TrainJudge


@dataclass(frozen=True, kw_only=True)
class TrainFreshJudge(TrainJudge):
    """As the other judge, on pictures that the data set draws for it alone; measured on further ones."""

    architecture: str = "resnet18_judge"
    size: int = 96
    fresh_images: int = 50  # of each person, to learn from
    fresh_test_images: int = 10  # of each person, to measure on: the ones that follow

    def check(self, images: int | None = None) -> None:
        """Raise where a setting makes no sense."""
        super().check(images)
        for name in ("fresh_images", "fresh_test_images"):
            if getattr(self, name) < 1:
                raise MibenchError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def parts(self, data: IdentitySplit) -> tuple[Images, Images, int]:
        """Fresh pictures to train on and to measure on, and the number of classes."""
        train = data.fresh(self.size, self.fresh_images)
        return train, data.fresh(self.size, self.fresh_test_images, first=self.fresh_images), data.num_classes
