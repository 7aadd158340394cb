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
from mibench.system.files import atomic_write  # how reports write: a crash leaves no half a figure

__all__ = [
    "IN_UNIT_RANGE",
    "LabelledImages",
    "StoredRun",
    "Unit",
    "adjusted",
    "as_runs",
    "atomic_write",
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
