"""The read side of a run directory: what reports, and anybody's notebook, may import."""

from mibench.errors import printable
from mibench.results.paired import (
    IN_UNIT_RANGE,
    adjusted,
    compared,
    difference,
    differences,
    per_identity,
    pooled,
    without_value,
)
from mibench.results.stored_run import LabelledImages, StoredRun, Unit, as_runs, damaged, open_run

__all__ = [
    "IN_UNIT_RANGE",
    "LabelledImages",
    "StoredRun",
    "Unit",
    "adjusted",
    "as_runs",
    "compared",
    "damaged",
    "difference",
    "differences",
    "open_run",
    "per_identity",
    "pooled",
    "printable",
    "without_value",
]
