"""Tables of runs as CSV (full precision) and Markdown (for people). Queries belong to a result and have a table;
seconds and memory belong to a machine and are left out: without them an interrupted run draws the same bytes as an
uninterrupted one (``Run.cost`` and ``mibench show run`` have them).

=================== =====================================================================
``summary``         a row per run, the floor and the controls; headline metrics
``metrics``         every metric of every run and of the floor, with n, extractor, reason
``identities``      a row per run and identity
``costs``           a row per run and the floor; images shown to the victim
``against_floor``   paired differences from the floor, with p values (when there is one)
=================== =====================================================================
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from mibench.api import Estimate
from mibench.results import LabelledImages, StoredRun, as_runs, atomic_write, differences, without_value

from .formatting import (
    ABSENT,
    CONTROLS,
    MEASURES,
    arrow,
    context,
    count,
    interval,
    measure,
    number,
    query_budget,
    run_labels,
)

FLOOR_LABEL = "floor (no attack)"
TESTED = ("hit1", "hit5", "knn_distance", "feature_distance", "true_identity_error")
_TESTED_TITLES = {"hit1": "acc1", "hit5": "acc5"}
_COLUMN_TITLES = {"judge_confidence": "judge's confidence", "true_identity_rank_mean": "true identity rank (mean)"}
MOST_LISTED = 200  # identities of a run in a table for people
_INTERVAL_NOTE = "Intervals are 95 %, resampling identities. Arrows: which way the attack does better."

Row = list[str]


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
    place = folder or runs[0].path / "tables"
    rows = list(zip(run_labels(runs), runs, strict=True))
    if floor is not None and floor.path not in {each.path for each in runs}:
        rows.append((FLOOR_LABEL, floor))
    tables = {"summary": summary(rows), "metrics": metrics(rows), "identities": identities(rows)}
    tables["costs"] = costs(rows)
    if floor is not None and len(rows) > len(runs):
        tables["against_floor"] = against_floor(rows[:-1], floor)
    files = []
    for name, (table, markdown) in tables.items():
        files.append(write(place / f"{name}.csv", as_csv(table)))
        files.append(write(place / f"{name}.md", markdown))
    return files


def summary(rows: Sequence[tuple[str, StoredRun]]) -> tuple[list[Row], str]:
    """Headline metrics, a row per run and per control of the first run; CSV rows and Markdown."""
    first = rows[0][1]
    shown = [name for name, how in MEASURES.items() if how.headline and any(name in run.metrics for _, run in rows)]
    lines: list[tuple[str, str, Callable[[str], Estimate | None]]] = [
        (label, context(run), run.metrics.get) for label, run in rows
    ]
    for control, title in CONTROLS.items():
        if f"control_{control}_acc1" in first.metrics:
            lines.append((title, "", lambda name, control=control: first.metrics.get(f"control_{control}_{name}")))  # type: ignore[misc]
    table: list[Row] = [["row", "context"]]
    for name in shown:
        table[0] += [name, f"{name}_low", f"{name}_high", f"{name}_n"]
    body: list[Row] = []
    for label, where, of in lines:
        estimates = [of(name) for name in shown]
        table.append([label, where])
        for estimate in estimates:
            table[-1] += _cells(estimate)
        counts = {estimate.n for estimate in estimates if estimate is not None and estimate.value is not None}
        cells = [interval(e, percent=measure(name).percent) for name, e in zip(shown, estimates, strict=True)]
        body.append([label, *cells, "/".join(str(count) for count in sorted(counts))])
    titles = [measure(name).title + arrow(_first(rows, name)) for name in shown]
    notes = [f"{_capital(context(first))}. {_INTERVAL_NOTE}", *_absent_notes(rows, shown)]
    return table, as_markdown("Summary", notes, [["", *titles, "n identities"], *body])


def metrics(rows: Sequence[tuple[str, StoredRun]]) -> tuple[list[Row], str]:
    """Every metric: long CSV rows; Markdown with a row per metric and a column per run."""
    head = ["run", "context", "metric", "value", "low", "high", "n", "unit", "higher_is_better", "version"]
    table: list[Row] = [[*head, "extractor", "reason", "params"]]
    names: dict[str, None] = {name: None for name in MEASURES if any(name in run.metrics for _, run in rows)}
    for label, run in rows:
        for name, estimate in sorted(run.metrics.items()):
            names.setdefault(name)
            table.append(
                [
                    *(label, context(run), name),
                    *_cells(estimate),
                    estimate.unit,
                    "" if estimate.higher_is_better is None else str(estimate.higher_is_better).lower(),
                    *(estimate.version, estimate.extractor or "", estimate.reason or ""),
                    "; ".join(f"{key}={value}" for key, value in sorted(estimate.params.items())),
                ]
            )
    body = [["metric", *(label for label, _ in rows), "n", "measured by"]]
    for name in names:
        found = _first(rows, name)
        shown = measure(name)
        cells = [interval(run.metrics.get(name), percent=shown.percent) for _, run in rows]
        n = str(found.n) if found is not None and found.value is not None else ABSENT
        body.append([shown.title + arrow(found), *cells, n, (found.extractor if found else None) or ""])
    notes = [f"{_capital(context(rows[0][1]))}. {_INTERVAL_NOTE}", *_absent_notes(rows, list(names))]
    return table, as_markdown("Metrics", notes, body)


def identities(rows: Sequence[tuple[str, StoredRun]]) -> tuple[list[Row], str]:
    """Means over the selected samples of each identity; a row per run and identity, CSV and Markdown.

    The Markdown, which is read by people, has the first MOST_LISTED identities of a run.
    """
    columns = {
        "hit1": "acc1",
        "hit5": "acc5",
        "judge_confidence": "judge_confidence",
        "knn_distance": "knn_distance",
        "feature_distance": "feature_distance",
        "true_identity_error": "true_identity_error",
        "true_identity_rank": "true_identity_rank_mean",
    }
    table: list[Row] = [["run", "identity", "samples", *columns.values()]]
    body: list[Row] = [
        ["run", "identity", "samples", *(_COLUMN_TITLES.get(name, measure(name).title) for name in columns.values())]
    ]
    most = 0
    for label, run in rows:
        chosen = run.samples[run.samples["selected"]]
        fixed = {column for column in columns if without_value(run, column)}
        for place, (identity, group) in enumerate(chosen.groupby("identity")):
            values = [
                float(group[column].mean()) if column in group and column not in fixed else float("nan")
                for column in columns
            ]
            table.append(
                [label, str(identity), str(len(group)), *("" if value != value else repr(value) for value in values)]
            )
            most = max(most, place + 1)
            if place >= MOST_LISTED:
                continue
            body.append(
                [
                    *(label, str(identity), str(len(group))),
                    *(
                        number(value, percent=measure(name).percent) + (" %" if measure(name).percent else "")
                        for name, value in zip(columns.values(), values, strict=True)
                    ),
                ]
            )
    note = f"{_capital(context(rows[0][1]))}. Means over selected samples."
    if most > MOST_LISTED:
        note += f" The first {MOST_LISTED} of {most:,} identities; all of them are in identities.csv."
    return table, as_markdown("Identities", [note], body)


def costs(rows: Sequence[tuple[str, StoredRun]]) -> tuple[list[Row], str]:
    """Images shown to the victim, forwards and backwards, by stage and per identity; CSV and Markdown."""
    counts = ("queries_forward", "queries_backward")
    columns = [(stage, fact) for stage in ("prepare", "attack", "identity") for fact in counts]
    columns.append(("prior", "queries_forward"))
    titles = ["prepare, forward", "prepare, backward", "attack, forward", "attack, backward"]
    titles += ["per identity, forward", "per identity, backward", "training of the prior"]
    table: list[Row] = [["run", "context", "query_budget", *(f"{stage}_{fact}" for stage, fact in columns)]]
    body: list[Row] = [["run", *titles]]
    for label, run in rows:
        cost = run.cost()
        values = [cost[stage][fact] for stage, fact in columns]
        budget = query_budget(run)
        exact = ["" if value is None else repr(value) for value in (budget, *values)]
        table.append([label, context(run), *exact])
        body.append([label, *(count(value) for value in values)])
    notes = [
        f"{_capital(context(rows[0][1]))}. Images shown to the attacked model; backward: those for which a gradient "
        "came back. What is prepared is shared by all identities, and per identity means both together.",
    ]
    if (budget := query_budget(rows[0][1])) is not None:
        notes.append(f"The protocol allows {count(budget)} images per identity, forward plus backward.")
    if any(run.cost()["prior"]["queries_forward"] for _, run in rows):
        notes.append("What the training of a prior showed the attacked model is no part of the attack's queries.")
    return table, as_markdown("Costs", notes, body)


def against_floor(rows: Sequence[tuple[str, StoredRun]], floor: StoredRun) -> tuple[list[Row], str]:
    """Paired differences from the floor over the same identities, p values adjusted by Holm; CSV and Markdown."""
    table: list[Row] = [["run", "metric", "difference", "low", "high", "n", "p_value", "p_holm", "reason"]]
    body: list[Row] = [["run", "metric", "difference from the floor", "p (Holm)", "n identities"]]
    for label, run in rows:
        present = [c for c in TESTED if c in run.samples and c in floor.samples]
        measured = [c for c in present if bool(run.samples[c].notna().all()) and bool(floor.samples[c].notna().all())]
        for column, estimate in zip(measured, differences(run, floor, measured), strict=True):
            name = _TESTED_TITLES.get(column, column)
            p_value, p_holm = (estimate.params.get(key) for key in ("p_value", "p_holm"))
            table.append(
                [
                    *(label, name),
                    *_cells(estimate),
                    *("" if p is None else repr(float(p)) for p in (p_value, p_holm)),
                    estimate.reason or "",
                ]
            )
            shown = measure(name)
            text = (
                interval(estimate, percent=shown.percent, sign=" points")
                if estimate.value is not None
                else str(estimate.reason)
            )
            body.append([label, shown.title, text, number(p_holm), str(estimate.n)])
    notes = ["Paired over identities: attack minus floor, 95 % interval; p values hold for the whole table of a run."]
    return table, as_markdown("Against the floor", notes, body)


def as_csv(table: Sequence[Row]) -> str:
    """Rows as CSV text with ``\\n`` line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def as_markdown(title: str, notes: Sequence[str], table: Sequence[Row]) -> str:
    """A heading, the table with columns aligned in plain text as well, and notes below it."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]

    def line(row: Row) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    body = "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])
    return f"## {title}\n\n{body}\n\n" + "\n".join(f"{note}\n" for note in notes)


def write(file: Path, text: str) -> Path:
    """Write a text file, making its folder."""
    atomic_write(file, text.encode(), sweep=True)
    return file


def _cells(estimate: Estimate | None) -> Row:
    """value, low, high, n in full precision; empty where there is none."""
    if estimate is None or estimate.value is None:
        return ["", "", "", ""]
    return [
        *("" if number is None else repr(float(number)) for number in (estimate.value, estimate.low, estimate.high)),
        str(estimate.n),
    ]


def _first(rows: Sequence[tuple[str, StoredRun]], name: str) -> Estimate | None:
    """The estimate of the first run that has a value for it, else any."""
    found = [run.metrics[name] for _, run in rows if name in run.metrics]
    return next((estimate for estimate in found if estimate.value is not None), found[0] if found else None)


def _absent_notes(rows: Sequence[tuple[str, StoredRun]], names: Sequence[str]) -> list[str]:
    """One sentence per distinct reason why numbers are missing."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        for _, run in rows:
            estimate = run.metrics.get(name)
            if estimate is not None and estimate.value is None:
                titles = reasons.setdefault(estimate.reason or "no reason was given", [])
                if measure(name).title not in titles:
                    titles.append(measure(name).title)
    return [f"{ABSENT} {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
