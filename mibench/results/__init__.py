"""The read side of a run directory: what reports, and anybody's notebook, may import."""

from mibench.errors import printable
from mibench.metrics.margins import Increase
from mibench.results.black_box import gradients_of_another, white_box
from mibench.results.contract import (
    COMPARED_BY,
    ComparedBy,
    ComparisonFunction,
    GateFunction,
    IndexFunction,
    PageFunction,
    PrintableComparison,
    PrintableGate,
    Report,
)
from mibench.results.formatting import (
    ABSENT,
    absent_notes,
    arrow,
    bounds_text,
    count_text,
    csv_cell,
    estimate_text,
    interval_text,
    markdown_inert,
    markdown_lines,
    number_text,
)
from mibench.results.integrity import damaged
from mibench.results.metric_infos import built_in_infos, merged_infos
from mibench.results.own_loss import own_loss_fell
from mibench.results.paired import (
    adjusted,
    compared,
    difference,
    differences,
    is_proportion,
    metric_of_column,
    per_identity,
    pooled,
    without_value,
)
from mibench.results.stored_run import LabelledImages, StoredRun, Unit, as_runs, open_run
from mibench.results.utility import utility
from mibench.system.files import atomic_write  # how reports write: a crash leaves no half a figure
from mibench.system.text_files import read_object

__all__ = [
    "ABSENT",
    "COMPARED_BY",
    "ComparedBy",
    "ComparisonFunction",
    "GateFunction",
    "Increase",
    "IndexFunction",
    "LabelledImages",
    "PageFunction",
    "PrintableComparison",
    "PrintableGate",
    "Report",
    "StoredRun",
    "Unit",
    "absent_notes",
    "adjusted",
    "arrow",
    "as_runs",
    "atomic_write",
    "bounds_text",
    "built_in_infos",
    "compared",
    "count_text",
    "csv_cell",
    "damaged",
    "difference",
    "differences",
    "estimate_text",
    "gradients_of_another",
    "interval_text",
    "is_proportion",
    "markdown_inert",
    "markdown_lines",
    "merged_infos",
    "metric_of_column",
    "number_text",
    "open_run",
    "own_loss_fell",
    "per_identity",
    "pooled",
    "printable",
    "read_object",
    "utility",
    "white_box",
    "without_value",
]
