"""The accuracy of a set of weights on a data set's images, measured in one way by import, audit and doctor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mibench.api import Accuracy
from mibench.data.split import Images
from mibench.errors import MibenchError
from mibench.metrics.extractors import JudgeExtractor
from mibench.system.devices import deterministic
from mibench.system.progress import Reporter

CHUNK = 256  # images between two updates of the progress
# How far accuracies of the same weights may lie apart before somebody is told:
MEASURED_TOLERANCE = 0.005  # both measured by mibench on the same images: another device, other kernels
REPORTED_TOLERANCE = 0.01  # one of them reported by the authors: one point, besides what their test loader drops


def measure_accuracy(
    classifier: JudgeExtractor, images: Images, *, device: torch.device, reporter: Reporter
) -> Accuracy:
    """Accuracy on stored images, deterministic and in float32.

    Args:
        classifier: of the network; brings the images to its size.
        images: with labels in the network's order of classes.
        device: where the classifier computes.
        reporter: hears of the progress.

    Raises:
        MibenchError: there are no images, or they cannot be read.
    """

    if not len(images):
        raise MibenchError(
            f"there are no images to measure {classifier.name} on", cure="check the settings of the data set"
        )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            yield classifier(images.pixels[part]).logits, images.labels[part]
            reporter.update(min(start + CHUNK, len(images)), len(images))

    reporter.start(f"measuring {classifier.name} on {len(images)} test images")
    try:
        with deterministic(device, "float32"):
            return Accuracy.of(batches())
    finally:
        reporter.stop()
