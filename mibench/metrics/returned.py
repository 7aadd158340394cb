"""What a metric returned, looked at before it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mibench.api import Estimate, Measured, MibenchError
from mibench.metrics.inputs import MetricFunction, ScoringInputs
from mibench.system.foreign_code import contained

FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {  # of an estimate, as metrics.json has them
    **dict.fromkeys(("value", "low", "high"), (lambda v: v is None or _real(v), "a float, or None with a reason")),
    **dict.fromkeys(("unit", "version"), (lambda v: isinstance(v, str), "a text")),
    **dict.fromkeys(("extractor", "reason"), (lambda v: v is None or isinstance(v, str), "a text or None")),
    "n": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "a whole number"),
    "higher_is_better": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
}


def measure(metric: str, function: MetricFunction, inputs: ScoringInputs) -> tuple[Sequence[Estimate], Measured | None]:
    """Call a metric; its estimates, and all that it returned where it has columns of its own.

    Raises:
        MibenchError: it returns anything but estimates, an estimate without a name or with a value that is no number,
            one name twice, what JSON cannot hold, or changes settings of the process.
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
        for field, (fits, kind) in FIELDS.items():
            if not fits(given := getattr(estimate, field)):
                raise MibenchError(
                    f"metric {metric!r}: the {field} of {estimate.name!r} is of type {type(given).__name__}",
                    cure=f"make it {kind}",
                )
        if not _fits_json(estimate.params):
            raise MibenchError(
                f"metric {metric!r}: the params of {estimate.name!r} cannot be written as JSON",
                cure="make them a dict of names and finite numbers, texts, lists or None",
            )
    names = [estimate.name for estimate in kept]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MibenchError(f"metric {metric!r} returns {twice[0]!r} twice", cure="give each estimate its own name")
    return kept, result if isinstance(result, Measured) else None


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits_json(params: object) -> bool:
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        return False
    try:
        json.dumps(dict(params), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def own_columns(metric: str, result: Measured, taken: set[str], rows: int) -> dict[str, NDArray[np.generic]]:
    """The columns that a metric of a third party adds to the per-sample table.

    Raises:
        MibenchError: a name that is taken, another number of rows, or values that are no numbers.
    """
    if not isinstance(result.columns, Mapping) or not all(isinstance(name, str) for name in result.columns):
        raise MibenchError(f"metric {metric!r} returns columns that have no names", cure="make them a dict, by name")
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
