"""The table of a sweep: a row per cell, failed ones too; and the comparison of the complete ones, pooled over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mibench import registry
from mibench.api import MetricInfo, MibenchError
from mibench.errors import printable
from mibench.results import (
    ComparisonFunction,
    StoredRun,
    built_in_infos,
    count_text,
    csv_cell,
    estimate_text,
    interval_text,
    markdown_lines,
    merged_infos,
)
from mibench.system.files import atomic_write, write_error

from .suite import Suite

if TYPE_CHECKING:
    from mibench.sweeps.status import Outcome

COMPARISON = "comparison"
WIDTH = 110
COUNTED = ("queries_forward", "queries_backward", "seconds")
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class SweepTable:
    """A row for each cell of a sweep.

    Attributes:
        infos: the metrics that have columns.
        rows: a mapping of :attr:`columns` for each cell; None where there is no value. ``queries_*`` and ``seconds``
            are those of preparation and units together, without judging and drawing.
    """

    infos: tuple[MetricInfo, ...]
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ``sweep.csv``."""
        metrics = (name for info in self.infos for name in (info.name, f"{info.name}_low", f"{info.name}_high"))
        return (
            *("attack", "label", "target", "seed", "prior", "preset", "status", "reason"),
            *metrics,
            *COUNTED,
            "folder",
        )

    def csv(self) -> str:
        """Every column in full precision; no text is a formula to a spreadsheet."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in self.rows)
        return text.getvalue()

    def markdown(self) -> str:
        """The table for people."""
        return "\n".join(markdown_lines(self._readable(), ragged=True))  # reasons are long

    def brief(self, width: int) -> list[str]:
        """The table in ``width`` letters for a terminal: what does not fit is left out from the right, the state last.

        ``sweep.md`` has every column.
        """
        head, *body = self._readable()
        states = (printable(str(row["status"])) for row in self.rows)  # alone: the reasons are printed below
        rows = [head, *([*texts[:-1], state] for texts, state in zip(body, states, strict=True))]
        lines = markdown_lines(rows)
        while len(rows[0]) > 4 and len(lines[0]) > width:
            rows = [[*row[:-2], row[-1]] for row in rows]
            lines = markdown_lines(rows)
        return lines

    def _readable(self) -> list[list[str]]:
        titles = [info.heading for info in self.infos]
        head = ["attack", "target", "seed", *titles, "queries", "seconds", "status"]
        return [head, *([printable(text) for text in self._texts(row)] for row in self.rows)]

    def _texts(self, row: Row) -> list[str]:
        metrics = ["" if row[info.name] is None else _interval(row, info) for info in self.infos]
        forward, backward, seconds = (_number(row[name]) for name in COUNTED)
        queries = "" if forward is None or backward is None else f"{count_text(forward)} + {count_text(backward)}"
        status = f"{row['status']}: {row['reason']}" if row["reason"] else str(row["status"])
        duration = "" if seconds is None else f"{seconds:.0f}"
        return [str(row["label"]), str(row["target"]), str(row["seed"]), *metrics, queries, duration, status]


def sweep_table(outcomes: Sequence[Outcome], out: Path) -> SweepTable:
    """The table of the outcomes of a sweep into the folder ``out``."""
    runs = [outcome.run for outcome in outcomes]
    infos = shown_infos(run.infos for run in runs if run is not None)
    rows = (_row(outcome, run, infos, out) for outcome, run in zip(outcomes, runs, strict=True))
    return SweepTable(infos, tuple(rows))


def shown_infos(of_runs: Iterable[Mapping[str, MetricInfo]] = ()) -> tuple[MetricInfo, ...]:
    """The metrics that say that they belong in the table of a sweep: the built-in ones, and what the runs add."""
    infos = merged_infos([built_in_infos(), *of_runs])
    return tuple(info for info in infos.values() if "sweep" in info.views)


def headline(run: StoredRun) -> str:
    """``acc@1 78.0 % [62.0, 90.0], `` of a run, or nothing where it was not measured."""
    if "acc1" not in run.metrics:
        return ""
    info = run.infos["acc1"]
    return f"{info.title} {estimate_text(run.metrics['acc1'], info)}, "


def _row(outcome: Outcome, run: StoredRun | None, infos: Iterable[MetricInfo], out: Path) -> Row:
    standing, request = outcome.standing, outcome.standing.cell.request
    row: Row = dict.fromkeys(SweepTable(tuple(infos), ()).columns)
    row |= {"attack": request.attack, "label": standing.cell.label, "target": request.target, "seed": request.seed}
    row |= {"prior": request.prior, "preset": request.preset, "status": outcome.status, "reason": outcome.reason}
    if standing.plan is not None:
        spec = standing.plan.spec
        row |= {"prior": spec.prior.card if spec.prior is not None else None, "preset": spec.preset}
        row["folder"] = standing.folder if (out / spec.run_name).is_dir() else None
    if run is None:
        return row
    for info in infos:
        if (estimate := run.metrics.get(info.name)) is not None:
            row |= {info.name: estimate.value, f"{info.name}_low": estimate.low, f"{info.name}_high": estimate.high}
    cost = run.cost()
    for name in COUNTED:
        prepare, attack = cost["prepare"][name], cost["attack"][name]
        row[name] = None if prepare is None or attack is None else prepare + attack
    seconds = _number(row["seconds"])
    row["seconds"] = None if seconds is None else round(seconds, 1)
    return row


def _interval(row: Row, info: MetricInfo) -> str:
    value, low, high = (_number(row[info.name + ending]) for ending in ("", "_low", "_high"))
    return interval_text(value, low, high, percent=info.percent)


def _number(value: str | float | None) -> float | None:
    return None if isinstance(value, str) else value


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


def write(suite: Suite, out: Path, table: SweepTable) -> Written:
    """Write ``sweep.csv`` and ``sweep.md``, and every registered comparison of the complete cells."""
    atomic_write(out / "sweep.csv", table.csv().encode())
    about = f"{suite.description}\n\n" if suite.description else ""
    note = "95 % intervals over identities. Queries: images shown to the victim, forwards + backwards."
    atomic_write(out / "sweep.md", f"# {suite.name}\n\n{about}{table.markdown()}\n\n{note}\n".encode())
    complete = [out / str(row["folder"]) for row in table.rows if row["status"] == "complete"]
    files, compared, notes = [out / "sweep.csv", out / "sweep.md"], [], []
    for name in registry.names("comparison") if len(complete) > 1 else ():
        try:
            compare: ComparisonFunction = registry.load("comparison", name)
            comparison = compare(complete, reference=suite.reference, metrics=suite.metrics, by=suite.by)
            files += comparison.write(out / COMPARISON)
            compared.append(comparison.render("text", width=WIDTH).rstrip())
        except MibenchError as error:
            notes.append(f"no comparison {name!r}: {error}")
        except OSError as error:
            raise write_error(out / COMPARISON, error) from error
    return Written(tuple(files), tuple(compared), tuple(notes))
