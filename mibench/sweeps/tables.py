"""The table of a sweep: a row per cell, failed ones too; and the comparison of the complete ones, pooled over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench import registry
from mibench.errors import MibenchError, printable
from mibench.system.files import atomic_write, write_error

from .suite import Suite

if TYPE_CHECKING:
    from mibench.sweeps.status import Outcome

COLUMNS = (
    "attack", "label", "target", "seed", "prior", "preset", "status", "reason",
    "acc1", "acc1_low", "acc1_high", "acc5", "acc5_low", "acc5_high",
    "knn_distance", "knn_distance_low", "knn_distance_high",
    "true_identity_error", "true_identity_error_low", "true_identity_error_high",
    "queries_forward", "queries_backward", "seconds", "folder",
)  # fmt: skip
METRICS = ("acc1", "acc5", "knn_distance", "true_identity_error")
SHOWN = ("acc@1", "acc@5", "KNN distance", "true identity error")
COMPARISON = "comparison"
WIDTH = 110


def rows(outcomes: Sequence[Outcome], out: Path) -> list[dict[str, Any]]:
    """A mapping of :data:`COLUMNS` for each cell; None where there is no value.

    ``queries_*`` and ``seconds`` are those of preparation and units together, without judging and drawing.
    """
    return [_row(outcome, out) for outcome in outcomes]


def _row(outcome: Outcome, out: Path) -> dict[str, Any]:
    standing, request = outcome.standing, outcome.standing.cell.request
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"attack": request.attack, "label": standing.cell.label, "target": request.target, "seed": request.seed}
    row |= {"prior": request.prior, "preset": request.preset, "status": outcome.status, "reason": outcome.reason}
    if standing.plan is not None:
        spec = standing.plan.spec
        row |= {"prior": spec.prior.card if spec.prior is not None else None, "preset": spec.preset}
        row["folder"] = standing.folder if (out / spec.run_name).is_dir() else None
    if outcome.run is None:
        return row
    for name in METRICS:
        if (metric := outcome.run.metrics.get(name)) is not None:
            row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
    cost = outcome.run.cost()
    for name in ("queries_forward", "queries_backward", "seconds"):
        parts = [cost[stage][name] for stage in ("prepare", "attack")]
        known = [part for part in parts if part is not None]
        row[name] = sum(known) if len(known) == len(parts) else None
    row["seconds"] = None if row["seconds"] is None else round(row["seconds"], 1)
    return row


def interval(metric: Mapping[str, Any] | None) -> str:
    """``0.78 [0.62, 0.90]``."""
    if metric is None or metric.get("value") is None:
        return "none"
    text = f"{metric['value']:.4g}"
    if metric.get("low") is not None and metric.get("high") is not None:
        text += f" [{metric['low']:.4g}, {metric['high']:.4g}]"
    return text


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The table for people, aligned so that it reads as plain text too."""
    head = ["attack", "target", "seed", *SHOWN, "queries", "seconds", "status"]
    lines = [head, *([_escaped(text) for text in _shown(row)] for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    widths[-1] = len(head[-1])  # reasons are long
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def brief(found: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """The table in ``width`` letters for a terminal: what does not fit is left out from the right, the state last.

    ``sweep.md`` has every column.
    """
    head = ["attack", "target", "seed", *SHOWN, "queries", "seconds", "status"]
    lines = [head, *([_escaped(text) for text in _shown(row)] for row in found)]
    kept = list(range(len(head)))
    lines = [[*line[:-1], line[-1].partition(":")[0]] for line in lines]  # reasons are printed below
    while len(kept) > 4 and sum(max(len(line[c]) for line in lines) + 3 for c in kept) + 1 > width:
        del kept[-2]
    widths = [max(len(line[column]) for line in lines) for column in kept]
    table = [[line[column] for column in kept] for line in lines]
    table.insert(1, ["-" * size for size in widths])
    return ["| " + " | ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)) + " |" for line in table]


def _shown(row: Mapping[str, Any]) -> list[str]:
    metrics = [
        interval({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})
        if row[name] is not None
        else ""
        for name in METRICS
    ]
    forward, backward = row["queries_forward"], row["queries_backward"]
    queries = "" if forward is None or backward is None else f"{forward:,.0f} + {backward:,.0f}"
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
    status = f"{row['status']}: {row['reason']}" if row["reason"] else str(row["status"])
    return [str(row["label"]), str(row["target"]), str(row["seed"]), *metrics, queries, seconds, status]


def _escaped(text: str) -> str:
    return printable(text).replace("|", "\\|")


@dataclass(frozen=True)
class Written:
    """Tables on disk.

    Attributes:
        compared: the comparisons as text, to print.
        notes: what could not be made, and why.
    """

    files: tuple[Path, ...]
    compared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def write(suite: Suite, out: Path, found: Sequence[Mapping[str, Any]]) -> Written:
    """Write ``sweep.csv`` and ``sweep.md``, and every registered comparison of the complete cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    atomic_write(out / "sweep.csv", text.getvalue().encode())
    about = f"{suite.description}\n\n" if suite.description else ""
    note = "95 % intervals over identities. Queries: images shown to the victim, forwards + backwards."
    atomic_write(out / "sweep.md", f"# {suite.name}\n\n{about}{markdown(found)}\n\n{note}\n".encode())
    complete = [out / row["folder"] for row in found if row["status"] == "complete"]
    files, compared, notes = [out / "sweep.csv", out / "sweep.md"], [], []
    for name in registry.names("comparison") if len(complete) > 1 else ():
        try:
            compare = registry.load("comparison", name)
            comparison = compare(complete, reference=suite.reference, metrics=suite.metrics)
            files += comparison.write(out / COMPARISON)
            compared.append(comparison.render("text", width=WIDTH).rstrip())
        except MibenchError as error:
            notes.append(f"no comparison {name!r}: {error}")
        except OSError as error:
            raise write_error(out / COMPARISON, error) from error
    return Written(tuple(files), tuple(compared), tuple(notes))
