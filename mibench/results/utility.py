"""What a classifier is still good for: its test accuracy, as the runs that attacked it recorded it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mibench.api import Estimate

if TYPE_CHECKING:
    from .stored_run import StoredRun

UTILITY = "test_accuracy"


def utility(run: StoredRun) -> Estimate:
    """Test accuracy of the attacked classifier in [0, 1], Clopper and Pearson's interval over its test images.

    The interval holds for other test images of the same people and the same weights. Null with the reason where the
    card of the target has no measured accuracy, or the run was made before runs recorded it.
    """
    from mibench.metrics.share_interval import clopper_pearson

    value, images = (run.attacked.get(name) for name in ("test_accuracy", "test_images"))
    if not isinstance(value, int | float):
        reason = "its card has no measured test accuracy" if run.attacked else "the run does not record it"
        return Estimate(UTILITY, None, reason=reason)
    if not 0 <= value <= 1:
        return Estimate(UTILITY, None, reason=f"a test accuracy of {value:g} is no share")
    if not isinstance(images, int) or images < 1:
        return Estimate(UTILITY, float(value), unit="image", reason="the number of test images is not known")
    low, high = clopper_pearson(float(value), float(images))
    return Estimate(UTILITY, float(value), low, high, n=images, unit="image")
