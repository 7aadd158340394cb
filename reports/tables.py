"""Tables of runs as CSV (full precision) and Markdown (for people). Queries belong to a result and have a table;
seconds and memory belong to a machine and are left out: without them an interrupted run draws the same bytes as an
uninterrupted one (``StoredRun.cost`` and ``mibench show run`` have them).

=================== =====================================================================
``summary``         a row per run, the floor and the controls; headline metrics
``judge``           how often the judge of the first run is wrong (where that was measured)
``metrics``         every metric of every run and of the floor, with n, extractor, reason
``identities``      a row per run and identity
``costs``           a row per run and the floor; images shown to the victim
``against_floor``   paired differences from the floor, with p values (when there is one)
=================== =====================================================================
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.api import Estimate, MetricInfo
from mibench.results import (
    ABSENT,
    LabelledImages,
    Report,
    StoredRun,
    absent_notes,
    arrow,
    as_runs,
    count_text,
    differences,
    merged_infos,
    without_value,
)

from .formatting import CONTROLS, FLOOR_LABEL, context, query_budget, run_labels, sentence
from .judges import ERROR_NOTE, errors_table, judges_of
from .table_model import (
    Cell,
    Column,
    Kind,
    Table,
    csv_text,
    estimate_cell,
    interval_column,
    markdown_text,
    text_cells,
    write_text,
)

MOST_LISTED = 200  # identities of a run in a table for people
_INTERVAL_NOTE = "Intervals are 95 %, resampling identities. Arrows: which way the attack does better."
_MORE_COLUMNS = {
    info.name: info
    for info in (
        MetricInfo("judge_confidence", "judge's confidence", column="judge_confidence", topic="accuracy"),
        MetricInfo(
            "true_identity_rank_mean", "true identity rank (mean)", column="true_identity_rank", topic="identity"
        ),
    )
}  # means over the samples of an identity that are no metric of the run

Rows = Sequence[tuple[str, StoredRun]]  # label and run


def write_tables(
    run: StoredRun | Sequence[StoredRun],
    folder: Path | None = None,
    *,
    floor: StoredRun | None = None,
    private: LabelledImages | None = None,
    hide_faces: bool | None = None,
) -> list[Path]:
    """Write every table (see the module) and return the files.

    Args:
        run: one run or several; the first one's directory is the default place.
        folder: where to write; ``tables`` in the first run's directory by default.
        floor: the same protocol without an attack.
        private: not used by tables.
        hide_faces: not used by tables.
    """
    runs = as_runs(run)
    folder = folder or runs[0].path / "tables"
    rows = list(zip(run_labels(runs), runs, strict=True))
    if floor is not None and floor.path not in {each.path for each in runs}:
        rows.append((FLOOR_LABEL, floor))
    tables = [summary(rows), (metrics_long(rows), metrics(rows)), (identities(rows), first_identities(rows))]
    if (errors := judge(runs)).rows:
        tables.append(errors)
    tables.append(costs(rows))
    if floor is not None and len(rows) > len(runs):
        tables.append(against_floor(rows[:-1], floor))
    files = []
    for table in tables:
        exact, readable = table if isinstance(table, tuple) else (table, table)
        files.append(write_text(folder / f"{exact.name}.csv", csv_text(exact)))
        files.append(write_text(folder / f"{readable.name}.md", markdown_text([readable], readable.notes or ())))
    return files


def summary(rows: Rows) -> Table:
    """Headline metrics, a row per run and per control of the first run."""
    first = rows[0][1]
    infos = [
        info
        for info in _infos(rows).values()
        if "summary" in info.views and any(info.name in run.metrics for _, run in rows)
    ]
    columns = [Column(name="row", title=""), Column(name="context", title=None)]
    for info in infos:
        columns += [_metric_column(rows, info), Column(name=f"{info.name}_n", title=None)]
    columns.append(Column(name=None, title="n identities"))
    lines: list[tuple[str, str, Callable[[str], Estimate | None]]] = [
        (label, context(run), run.metrics.get) for label, run in rows
    ]
    lines += [
        (title, "", _control(first, control))
        for control, title in CONTROLS.items()
        if any(name.startswith(f"control_{control}_") for name in first.metrics)
    ]
    body = []
    for label, where, estimate_of in lines:
        cells = [*text_cells(label, where)]
        counts: set[int] = set()
        for info in infos:
            estimate = estimate_of(info.name)
            cells += [estimate_cell(estimate), _n_cell(estimate)]
            counts |= {estimate.n} if estimate is not None and estimate.value is not None else set()
        body.append((*cells, Cell(value="/".join(str(n) for n in sorted(counts)))))
    notes = (f"{sentence(context(first))} {_INTERVAL_NOTE}", *_absent(rows, infos))
    return Table(name="summary", title="Summary", columns=tuple(columns), rows=tuple(body), notes=notes)


def judge(runs: Sequence[StoredRun]) -> Table:
    """Error rates of the judge that scored the first of the runs."""
    return replace(errors_table(judges_of(runs[:1])), notes=(f"{sentence(context(runs[0]))} {ERROR_NOTE}",))


def metrics_long(rows: Rows) -> Table:
    """Every metric of every run, a row for each, with everything that is stored about it: for programs."""
    names = ["run", "context", "metric", "value", "n", "unit", "higher_is_better", "version", "extractor", "reason"]
    names.append("params")
    columns = [Column(name=name, title=None, bounds=("low", "high") if name == "value" else None) for name in names]
    body = []
    for label, run in rows:
        for name, estimate in sorted(run.metrics.items()):
            better = "" if estimate.higher_is_better is None else str(estimate.higher_is_better).lower()
            params = "; ".join(f"{key}={value}" for key, value in sorted(estimate.params.items()))
            texts = (estimate.unit, better, estimate.version, estimate.extractor or "", estimate.reason or "", params)
            cells = (estimate_cell(estimate), _n_cell(estimate))
            body.append((*text_cells(label, context(run), name), *cells, *text_cells(*texts)))
    return Table(name="metrics", title="Metrics", columns=tuple(columns), rows=tuple(body))


def metrics(rows: Rows) -> Table:
    """Every metric, a row for each and a column per run: for people."""
    infos = [info for info in _infos(rows).values() if any(info.name in run.metrics for _, run in rows)]
    titles = ("metric", *(label for label, _ in rows), "n", "measured by")
    columns = tuple(Column(name=None, title=title) for title in titles)
    body = []
    for info in infos:
        first = _first(rows, info.name)
        n = str(first.n) if first is not None and first.value is not None else ABSENT
        better = None if first is None else first.higher_is_better
        values = (estimate_cell(run.metrics.get(info.name), info) for _, run in rows)
        extractor = (first.extractor if first is not None else None) or ""
        body.append((Cell(value=info.heading + arrow(better)), *values, *text_cells(n, extractor)))
    notes = (f"{sentence(context(rows[0][1]))} {_INTERVAL_NOTE}", *_absent(rows, infos))
    return Table(name="metrics", title="Metrics", columns=columns, rows=tuple(body), notes=notes)


def identities(rows: Rows) -> Table:
    """Means over the selected samples of each identity; a row per run and identity."""
    infos = [info for info in merged_infos([_infos(rows), _MORE_COLUMNS]).values() if _is_mean(info) and info.views]
    columns = [Column(name=name, title=name) for name in ("run", "identity", "samples")]
    columns += [Column(name=info.name, title=info.heading, kind=_kind(info)) for info in infos]
    body = []
    for label, run in rows:
        selected = run.samples[run.samples["selected"]]
        known = [info.column in selected and without_value(run, str(info.column)) is None for info in infos]
        for identity, group in selected.groupby("identity"):
            means = [
                float(group[info.column].mean()) if has_values else math.nan
                for info, has_values in zip(infos, known, strict=True)
            ]
            cells = [Cell(value=None if math.isnan(mean) else mean) for mean in means]
            body.append((*text_cells(label, str(identity), str(len(group))), *cells))
    notes = (f"{sentence(context(rows[0][1]))} Means over selected samples.",)
    return Table(name="identities", title="Identities", columns=tuple(columns), rows=tuple(body), notes=notes)


def first_identities(rows: Rows) -> Table:
    """:func:`identities` for people: the first MOST_LISTED identities of a run."""
    table = identities(rows)
    listed: Counter[Cell] = Counter()
    body = []
    for row in table.rows:
        listed[row[0]] += 1
        if listed[row[0]] <= MOST_LISTED:
            body.append(row)
    most = max(listed.values(), default=0)
    if most <= MOST_LISTED:
        return table
    note = "".join(table.notes or ())
    note += f" The first {MOST_LISTED} of {most:,} identities; all of them are in identities.csv."
    return replace(table, rows=tuple(body), notes=(note,))


def costs(rows: Rows) -> Table:
    """Images shown to the victim, forwards and backwards, by stage and per identity."""
    titles = {
        ("prepare", "queries_forward"): "prepare, forward",
        ("prepare", "queries_backward"): "prepare, backward",
        ("attack", "queries_forward"): "attack, forward",
        ("attack", "queries_backward"): "attack, backward",
        ("identity", "queries_forward"): "per identity, forward",
        ("identity", "queries_backward"): "per identity, backward",
        ("prior", "queries_forward"): "training of the prior",
    }
    columns = [Column(name="run", title="run")]
    columns += [Column(name=name, title=None) for name in ("context", "query_budget")]
    columns += [Column(name=f"{stage}_{fact}", title=title, kind="count") for (stage, fact), title in titles.items()]
    body = []
    for label, run in rows:
        cost = run.cost()
        counts = (Cell(value=cost[stage][fact]) for stage, fact in titles)
        body.append((*text_cells(label, context(run)), Cell(value=query_budget(run)), *counts))
    notes = [
        f"{sentence(context(rows[0][1]))} Images shown to the attacked model; backward: those for which a gradient "
        "came back. What is prepared is shared by all identities, and per identity means both together.",
    ]
    if (budget := query_budget(rows[0][1])) is not None:
        notes.append(f"The protocol allows {count_text(budget)} images per identity, forward plus backward.")
    if any(run.cost()["prior"]["queries_forward"] for _, run in rows):
        notes.append("What the training of a prior showed the attacked model is no part of the attack's queries.")
    return Table(name="costs", title="Costs", columns=tuple(columns), rows=tuple(body), notes=tuple(notes))


def against_floor(rows: Rows, floor: StoredRun) -> Table:
    """Paired differences from the floor over the same identities, p values adjusted by Holm."""
    columns = (
        Column(name="run", title="run"),
        Column(name="metric", title="metric"),
        Column(name="difference", title="difference from the floor", bounds=("low", "high")),
        Column(name="n", title=None),
        Column(name="p_value", title=None),
        Column(name="p_holm", title="p (Holm)", kind="number"),
        Column(name="reason", title=None),
        Column(name=None, title="n identities"),
    )
    body = []
    for label, run in rows:
        infos = [
            info
            for info in _infos([(label, run)]).values()
            if _is_mean(info) and info.tested and all(_has_column(each, str(info.column)) for each in (run, floor))
        ]
        for info, estimate in zip(infos, differences(run, floor, [info.name for info in infos]), strict=True):
            value = estimate_cell(estimate, kind="points" if info.percent else "number")
            p_value, p_holm = (estimate.params.get(key) for key in ("p_value", "p_holm"))
            body.append(
                (
                    Cell(value=label),
                    Cell(value=info.name, title=info.title),
                    value if estimate.value is not None else Cell(value=None, title=estimate.reason),
                    _n_cell(estimate),
                    *(Cell(value=None if p is None else float(p)) for p in (p_value, p_holm)),
                    *text_cells(estimate.reason or "", str(estimate.n)),
                )
            )
    notes = ("Paired over identities: attack minus floor, 95 % interval; p values hold for the whole table of a run.",)
    return Table(name="against_floor", title="Against the floor", columns=columns, rows=tuple(body), notes=notes)


def _infos(rows: Rows) -> Mapping[str, MetricInfo]:
    return merged_infos(run.infos for _, run in rows)


def _is_mean(info: MetricInfo) -> bool:
    """Whether a metric is the mean of a column of the per-sample table."""
    return info.column is not None and info.equals is None


def _has_column(run: StoredRun, column: str) -> bool:
    return column in run.samples and bool(run.samples[column].notna().all())


def _kind(info: MetricInfo) -> Kind:
    return "percent" if info.percent else "number"


def _metric_column(rows: Rows, info: MetricInfo) -> Column:
    first = _first(rows, info.name)
    better = None if first is None else first.higher_is_better
    return interval_column(info.name, info.heading, _kind(info), better)


def _control(run: StoredRun, control: str) -> Callable[[str], Estimate | None]:
    """Metric -> its estimate for a control of the run."""
    return lambda name: run.metrics.get(f"control_{control}_{name}")


def _n_cell(estimate: Estimate | None) -> Cell:
    return Cell(value=None if estimate is None or estimate.value is None else estimate.n)


def _first(rows: Rows, name: str) -> Estimate | None:
    """The estimate of the first run that has a value for it, else any."""
    estimates = [run.metrics[name] for _, run in rows if name in run.metrics]
    return next((each for each in estimates if each.value is not None), estimates[0] if estimates else None)


def _absent(rows: Rows, infos: Sequence[MetricInfo]) -> list[str]:
    def measured() -> Iterator[tuple[str, Estimate]]:
        for info in infos:
            for _, run in rows:
                if info.name in run.metrics:
                    yield info.title, run.metrics[info.name]

    return absent_notes(measured())


if TYPE_CHECKING:
    _: Report = write_tables  # held to the contract
