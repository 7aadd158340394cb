"""A metric of the toy world, with a value for each sample: all that a third party writes for one."""

from __future__ import annotations

from mibench.api import Measured, MetricInfo, metric
from mibench.metrics.inputs import ScoringInputs


@metric(MetricInfo("brightness", "brightness", unit="nits", higher_is_better=True, column="brightness"))
def brightness(inputs: ScoringInputs) -> Measured:
    """brightness: mean of the judge's features, which are mean colours in this world."""
    values = inputs.features.double().mean(dim=1).tolist()
    return Measured([inputs.mean_of("brightness", values, extractor=inputs.extractor)], {"brightness": values})
