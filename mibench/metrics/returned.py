"""What a metric returned, looked at before it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mibench.api import Estimate, Measured, MibenchError
from mibench.metrics.inputs import MetricFunction, ScoringInputs
from mibench.system.foreign_code import contained


def measure(metric: str, function: MetricFunction, inputs: ScoringInputs) -> tuple[Sequence[Estimate], Measured | None]:
    """Call a metric; its estimates, and all that it returned where it has columns of its own.

    Raises:
        MibenchError: it returns anything but estimates, an estimate without a name or with a value that is no number,
            or changes settings of the process.
    """
    with contained(f"metric {metric!r}", "while it measures"):
        result: Any = function(inputs)
    estimates = result.estimates if isinstance(result, Measured) else result
    if isinstance(estimates, str | Mapping) or not isinstance(estimates, Iterable):
        raise MibenchError(
            f"metric {metric!r} returns {type(result).__name__}",
            cure="return a list of Estimate, or Measured",
        )
    kept = list(estimates)
    for estimate in kept:
        if not isinstance(estimate, Estimate) or not isinstance(estimate.name, str) or not estimate.name:
            raise MibenchError(
                f"metric {metric!r} returns {type(estimate).__name__} among its estimates",
                cure="return Estimate objects, each with a name",
            )
        for field in ("value", "low", "high"):
            number = getattr(estimate, field)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
                raise MibenchError(
                    f"metric {metric!r}: the {field} of {estimate.name!r} is of type {type(number).__name__}",
                    cure="make it a float, or None with a reason",
                )
    return kept, result if isinstance(result, Measured) else None


def own_columns(metric: str, result: Measured, taken: set[str], rows: int) -> dict[str, NDArray[np.generic]]:
    """The columns that a metric of a third party adds to the per-sample table.

    Raises:
        MibenchError: a name that is taken, another number of rows, or values that are no numbers.
    """
    columns = {name: np.asarray(values) for name, values in result.columns.items()}
    for name, values in columns.items():
        if name in taken:
            raise MibenchError(
                f"metric {metric!r}: samples.csv has a column {name!r} already", cure="give it another name"
            )
        if values.shape != (rows,) or values.dtype.kind not in "biuf":
            raise MibenchError(
                f"metric {metric!r}: its column {name!r} should hold {rows} numbers, one for each sample, got "
                f"{values.dtype} {values.shape}"
            )
    return columns
