"""The test accuracy of imported weights, held against what their authors report."""

from __future__ import annotations

from mibench.api import Accuracy
from mibench.weights.accuracy import REPORTED_TOLERANCE

PUBLISHED_BATCH = 64  # the released test loader drops its last batch: 3,008 of 3,009 images
CHANCE = 3  # times 1 / classes
WRONG_PREPROCESSING = 0.4  # public reports of a wrong crop or normalisation lie near 0.1


def as_published(accuracy: Accuracy) -> tuple[float, float]:
    """Lowest and highest accuracy that the released test loader could have shown for these answers.

    It drops the last, incomplete batch of 64, whichever images were in it.
    """
    kept = accuracy.images // PUBLISHED_BATCH * PUBLISHED_BATCH
    if not kept:
        return accuracy.value, accuracy.value
    dropped = accuracy.images - kept
    return max(accuracy.right - dropped, 0) / kept, min(accuracy.right, kept) / kept


def doubt(measured: Accuracy, reported: float, classes: int) -> str | None:
    """Why measured and reported accuracy (in [0, 1]) differ by more than a point, likely; None where they agree."""
    low, high = as_published(measured)
    if low - REPORTED_TOLERANCE <= reported <= high + REPORTED_TOLERANCE:
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
