"""Two stored runs over the same identities: values of each identity, differences, tests. Part of the read side."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mibench.api import Estimate, MetricInfo, MibenchError

if TYPE_CHECKING:
    import pandas as pd

    from .stored_run import StoredRun

JUDGE_CONFIDENCE = "judge_confidence"  # the one column in [0, 1] that belongs to no metric


def per_identity(run: StoredRun, name: str) -> pd.Series[float]:
    """Mean over the selected samples of each identity, identities ascending.

    Args:
        run: a scored run.
        name: a column of ``samples.csv``, or a metric that is the mean of one (``acc1``).

    Raises:
        MibenchError: there is no such column.
    """
    selected = run.samples[run.samples["selected"]]
    info = run.infos.get(name)
    column, equals = (name, None) if info is None or info.column is None else (info.column, info.equals)
    if column not in selected or not _is_numeric(selected[column]):
        raise MibenchError(_no_such_column(run, name))
    values = selected[column]
    if equals is not None:
        values = (values == equals).where(values.notna()).astype("Float64")
    means: pd.Series[float] = values.groupby(selected["identity"]).mean().astype(float).sort_index()
    return means


def difference(run: StoredRun, other: StoredRun, column: str = "hit1", *, name: str | None = None) -> Estimate:
    """Mean difference ``run - other`` over the identities of both: interval and sign-flip p value.

    Null with the reason when the runs do not share their protocol or their identities, or when one of them has no
    value in the metric: what cannot differ is not tested.

    Args:
        run, other: scored runs.
        column: a column of ``samples.csv``, or a metric that is the mean of one, as for :func:`per_identity`.
        name: of the estimate; ``difference_<column>`` by default.

    Raises:
        MibenchError: there is no such column.
    """
    from mibench.metrics.estimates import null

    label = name or f"difference_{column}"
    if run.protocol != other.protocol:
        return null(label, f"protocols differ: {run.protocol} and {other.protocol}")
    first, second = per_identity(run, column), per_identity(other, column)
    if list(first.index) != list(second.index):
        return null(label, "the runs attack different identities")
    reason = without_value(run, column) or without_value(other, column)
    return null(label, reason) if reason else compared(label, first, second, trials=_trials(run, other, column))


def without_value(run: StoredRun, name: str) -> str | None:
    """Why a run has no value in a metric, or in the metric that a column belongs to; None where it has one."""
    if not (run.path / "metrics.json").is_file():
        return None
    info = metric_of_column(run, name)
    estimate = run.metrics.get(name if info is None else info.name)
    return (estimate.reason or "no reason was given") if estimate is not None and estimate.value is None else None


def metric_of_column(run: StoredRun, column: str) -> MetricInfo | None:
    """The metric that is the mean of a column of ``samples.csv``; None where there is none."""
    return next((info for info in run.infos.values() if info.column == column and info.equals is None), None)


def is_proportion(run: StoredRun, name: str) -> bool:
    """Whether a metric, or the metric that a column belongs to, is a mean of values in [0, 1], as it declares."""
    info = run.infos.get(name) or metric_of_column(run, name)
    return name == JUDGE_CONFIDENCE if info is None else info.proportion


def differences(run: StoredRun, other: StoredRun, columns: Sequence[str]) -> list[Estimate]:
    """:func:`difference` for several columns; ``params["p_holm"]`` holds for all of them together."""
    estimates = [difference(run, other, column) for column in columns]
    tested = [index for index, estimate in enumerate(estimates) if "p_value" in estimate.params]
    corrected = adjusted([float(estimates[index].params["p_value"]) for index in tested])
    for index, p_value in zip(tested, corrected, strict=True):
        estimates[index] = replace(estimates[index], params={**estimates[index].params, "p_holm": p_value})
    return estimates


def pooled(like: Estimate, values: pd.Series[float], *, seeds: int, samples: int) -> Estimate:
    """Mean over identities of ``values`` (indexed by identity), each already the mean over several seeds.

    Args:
        like: the estimate of one of the runs: name, direction, version, extractor and kind of interval are taken from
            it.
        values: one for each identity.
        seeds: how many runs were averaged.
        samples: how many samples of all runs together, for the interval of a share.
    """
    from mibench.metrics.estimates import CLOPPER_PEARSON, ratio

    share = like.params.get("interval") == CLOPPER_PEARSON
    return ratio(
        like.name,
        values.tolist(),
        [1.0] * len(values),
        proportion=share,
        trials=samples if share else None,
        params={"seeds": seeds},
        higher_is_better=like.higher_is_better,
        version=like.version,
        extractor=like.extractor,
    )


def compared(
    name: str, first: pd.Series[float], second: pd.Series[float], *, trials: tuple[float, float] | None = None
) -> Estimate:
    """``first - second`` over the same identities in the same order: :func:`mibench.metrics.estimates.compared`."""
    from mibench.metrics import estimates

    return estimates.compared(name, first.tolist(), second.tolist(), trials=trials)


def _trials(run: StoredRun, other: StoredRun, column: str) -> tuple[float, float] | None:
    """Samples behind either side of a difference of values in [0, 1]; None for other values."""
    if not is_proportion(run, column):
        return None
    return float(run.samples["selected"].sum()), float(other.samples["selected"].sum())


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of a family of p values, in the order given."""
    from mibench.metrics.estimates import holm_adjust

    return holm_adjust(p_values)


def _is_numeric(values: pd.Series[float]) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(values) or is_bool_dtype(values))


def _no_such_column(run: StoredRun, name: str) -> str:
    table = run.samples
    known = [str(column) for column in table if column != "identity" and _is_numeric(table[column])]
    known += [info.name for info in run.infos.values() if info.column in known and info.name not in known]
    if name in run.metrics:
        why = f"{name!r} has no value for each identity"
    else:
        why = f"{run.path / 'samples.csv'} has no column of numbers called {name!r}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{why}{f'; did you mean {near[0]!r}?' if near else ''} (known: {', '.join(known)})"
