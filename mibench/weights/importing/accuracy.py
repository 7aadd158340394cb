"""The test accuracy of imported weights, held against what their authors report."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mibench.api import ImageSpec
from mibench.data.split import IdentitySplit
from mibench.metrics.extractors import JudgeExtractor
from mibench.system.devices import deterministic
from mibench.system.progress import Reporter

TOLERANCE = 0.01  # one point
PUBLISHED_BATCH = 64  # the released test loader drops its last batch: 3,008 of 3,009 images
CHUNK = 256  # images between two updates of the progress
CHANCE = 3  # times 1 / classes
WRONG_PREPROCESSING = 0.4  # public reports of a wrong crop or normalisation lie near 0.1


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """``right`` of ``images`` test images, none dropped."""

    right: int
    images: int

    @property
    def value(self) -> float:
        """In [0, 1]."""
        return self.right / self.images

    def as_published(self) -> tuple[float, float]:
        """Lowest and highest accuracy that the released test loader could have shown for these answers.

        It drops the last, incomplete batch of 64, whichever images were in it.
        """
        kept = self.images // PUBLISHED_BATCH * PUBLISHED_BATCH
        if not kept:
            return self.value, self.value
        dropped = self.images - kept
        return max(self.right - dropped, 0) / kept, min(self.right, kept) / kept


def measure(
    network: nn.Module, image: ImageSpec, dataset: IdentitySplit, *, name: str, device: torch.device, reporter: Reporter
) -> Accuracy:
    """Test accuracy on a data set's private test images at the network's size."""
    images = dataset.private("test", image.size)
    classifier = JudgeExtractor(network, image, name=name, device=device)
    reporter.start(f"measuring {name} on {len(images)} test images")
    right = 0
    try:
        with deterministic(device, "float32"):
            for start in range(0, len(images), CHUNK):
                part = slice(start, start + CHUNK)
                logits = classifier(images.pixels[part]).logits
                right += int((logits.argmax(dim=1) == images.labels[part]).sum())
                reporter.update(min(start + CHUNK, len(images)), len(images))
    finally:
        reporter.stop()
    return Accuracy(right=right, images=len(images))


def doubt(measured: Accuracy, reported: float, classes: int) -> str | None:
    """Why measured and reported accuracy (in [0, 1]) differ by more than a point, likely; None where they agree."""
    low, high = measured.as_published()
    if low - TOLERANCE <= reported <= high + TOLERANCE:
        return None
    if measured.value <= CHANCE / classes:
        cause = "this is chance: the classes are numbered otherwise, or the lists of images are other ones"
    elif measured.value < WRONG_PREPROCESSING:
        cause = "another crop, resize or normalisation of the images (mistakes there leave about 10 %)"
    elif measured.value > reported:
        cause = "some of these test images were trained on, so the lists of images are other ones"
    else:
        cause = "another version of the data set or of its lists, or these are not the reported weights"
    return f"test accuracy is {measured.value:.2%} here and {reported:.2%} reported; likely cause: {cause}"
