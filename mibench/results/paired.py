"""Two stored runs over the same identities: values of each identity, differences, tests. Part of the read side."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mibench.errors import MibenchError
from mibench.records import Estimate

if TYPE_CHECKING:
    import pandas as pd

    from .stored_run import StoredRun

COLUMN_OF = {"acc1": "hit1", "acc5": "hit5", "target_acc1": "target_hit1"}  # metrics called otherwise in samples.csv
RANKED_FIRST = "true_identity_top1"
IN_UNIT_RANGE = frozenset({RANKED_FIRST, *COLUMN_OF, *COLUMN_OF.values(), "judge_confidence", "target_confidence"})


def per_identity(run: StoredRun, name: str) -> pd.Series[float]:
    """Mean over the selected samples of each identity, identities ascending.

    Args:
        run: a scored run.
        name: a column of ``samples.csv``, or a metric that is the mean of one (``acc1``).

    Raises:
        MibenchError: there is no such column.
    """
    chosen = run.samples[run.samples["selected"]]
    column = "true_identity_rank" if name == RANKED_FIRST else COLUMN_OF.get(name, name)
    if column not in chosen or not _is_numeric(chosen[column]):
        raise MibenchError(_no_such_column(run, name))
    values = chosen[column]
    if name == RANKED_FIRST:
        values = (values == 1).where(values.notna()).astype("Float64")
    found: pd.Series[float] = values.groupby(chosen["identity"]).mean().astype(float).sort_index()
    return found


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
    metric = next((metric for metric, column in COLUMN_OF.items() if column == name), name)
    found = run.metrics.get(metric) if (run.path / "metrics.json").is_file() else None
    return (found.reason or "no reason was given") if found is not None and found.value is None else None


def differences(run: StoredRun, other: StoredRun, columns: Sequence[str]) -> list[Estimate]:
    """:func:`difference` for several columns; ``params["p_holm"]`` holds for all of them together."""
    found = [difference(run, other, column) for column in columns]
    tested = [index for index, estimates in enumerate(found) if "p_value" in estimates.params]
    corrected = adjusted([float(found[index].params["p_value"]) for index in tested])
    for index, p_value in zip(tested, corrected, strict=True):
        found[index] = replace(found[index], params={**found[index].params, "p_holm": p_value})
    return found


def pooled(name: str, values: pd.Series[float], **fields: Any) -> Estimate:
    """Mean over identities of ``values`` (indexed by identity) with its interval; ``fields`` as ``estimate.ratio``."""
    from mibench.metrics.estimates import ratio

    return ratio(name, values.tolist(), [1.0] * len(values), **fields)


def compared(
    name: str, first: pd.Series[float], second: pd.Series[float], *, trials: tuple[float, float] | None = None
) -> Estimate:
    """``first - second`` over the same identities in the same order: ``estimate.compared``."""
    from mibench.metrics import estimates

    return estimates.compared(name, first.tolist(), second.tolist(), trials=trials)


def _trials(run: StoredRun, other: StoredRun, column: str) -> tuple[float, float] | None:
    """Samples behind either side of a difference of values in [0, 1]; None for other values."""
    if column not in IN_UNIT_RANGE:
        return None
    return float(run.samples["selected"].sum()), float(other.samples["selected"].sum())


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of a family of p values, in the order given."""
    from mibench.metrics.estimates import holm

    return holm(p_values)


def _is_numeric(values: pd.Series[Any]) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(values) or is_bool_dtype(values))


def _no_such_column(run: StoredRun, name: str) -> str:
    table = run.samples
    known = [str(column) for column in table if column != "identity" and _is_numeric(table[column])]
    known += [metric for metric, column in COLUMN_OF.items() if column in known]
    known += [RANKED_FIRST] if "true_identity_rank" in known else []
    if name in run.metrics:
        why = f"{name!r} has no value for each identity"
    else:
        why = f"{run.path / 'samples.csv'} has no column of numbers called {name!r}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{why}{f'; did you mean {near[0]!r}?' if near else ''} (known: {', '.join(known)})"
