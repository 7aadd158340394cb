"""The read side of a run directory: what reports, and anybody's notebook, may import."""

from mibench.results.paired import adjusted, compared, difference, differences, per_identity, pooled, without_value
from mibench.results.stored_run import LabelledImages, StoredRun, Unit, as_runs, open_run

__all__ = [
    "LabelledImages",
    "StoredRun",
    "Unit",
    "adjusted",
    "as_runs",
    "compared",
    "difference",
    "differences",
    "open_run",
    "per_identity",
    "pooled",
    "without_value",
]
