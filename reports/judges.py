"""The judges behind a table: how often each is wrong, and what it says of images that nobody reconstructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mibench.api import Estimate, MetricInfo
from mibench.results import StoredRun, arrow, count_text, merged_infos

from .formatting import CONTROLS
from .table_model import Cell, Column, Kind, Table, estimate_cell, text_cells

_ERRORS = ("judge_", "second_judge_")  # begin the names of error rates
_CONTROLS = {"": "control_", "second_": "second_control_"}  # begins a metric here -> begins its estimates for controls
ERROR_NOTE = (
    "False acceptance: an image is taken for a person whom it does not show; false rejection: it is not taken for the "
    "person whom it shows."
)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge with the people that it judged.

    Attributes:
        label: its card, the data set where several differ, and how many people are attacked.
        estimates: its error rates and what it says of controls, by name.
        infos: what those metrics say about themselves.
    """

    label: str
    estimates: Mapping[str, Estimate]
    infos: Mapping[str, MetricInfo]

    def of_control(self, control: str) -> dict[str, str]:
        """Metrics that a control has a value for, as they are called where an attack is measured -> their estimates."""
        names = {}
        for metric, prefix in _CONTROLS.items():
            begin = f"{prefix}{control}_"
            for name, estimate in self.estimates.items():
                if name.startswith(begin) and estimate.value is not None:
                    names[metric + name.removeprefix(begin)] = name
        return names


def judges_of(runs: Sequence[StoredRun]) -> tuple[Judge, ...]:
    """Every judge of runs with every set of people, once. Runs scored before error rates existed have controls only."""
    first_of: dict[tuple[str, ...], StoredRun] = {}
    for run in runs:
        if any(name.startswith((*_ERRORS, *_CONTROLS.values())) for name in run.metrics):
            first_of.setdefault(_key(run), run)
    several = len({key[1] for key in first_of}) > 1
    judges = []
    for (card, dataset, *_), run in first_of.items():
        names = [name for name in run.metrics if name.startswith((*_ERRORS, *_CONTROLS.values()))]
        infos = merged_infos([run.infos])
        people = int(run.samples["identity"].nunique())
        judges.append(
            Judge(
                label=f"{card}{f' on {dataset}' if several else ''}, {count_text(people)} people",
                estimates={name: run.metrics[name] for name in names},
                infos={name: infos[name] for name in names if name in infos},
            )
        )
    return tuple(judges)


def _key(run: StoredRun) -> tuple[str, ...]:
    spec = run.specification
    judge, protocol = spec.get("judge"), spec.get("protocol")
    card, digest = (judge.get("card"), judge.get("sha256")) if isinstance(judge, dict) else (judge, "")
    settings = protocol if isinstance(protocol, dict) else {}
    people = ",".join(map(str, sorted(run.samples["identity"].unique())))
    details = (spec.get("dataset_digest"), digest, people, settings.get("judge_resize"), settings.get("public_control"))
    return (str(card), run.dataset, *map(str, details), str(settings.get("samples")))


def judge_tables(judges: Sequence[Judge], metrics: Sequence[str] = ()) -> list[Table]:
    """Errors of the judges, then the controls of each; those that have a value.

    Args:
        judges: as :func:`judges_of` gives them.
        metrics: which to show of the controls; empty: all.
    """
    tables = [errors_table(judges), *(controls_table(judge, number, metrics) for number, judge in enumerate(judges))]
    return [table for table in tables if table.rows]


def errors_table(judges: Sequence[Judge]) -> Table:
    """A row for each kind of control pair and judge."""
    one = judges[0].label if len(judges) == 1 else None
    columns = (
        Column(name="judge", title="judge" if one is None else None),
        Column(name="error", title="control pairs"),
        Column(name="pairs", title="pairs", kind="count"),
        Column(name="rate", title="wrong", kind="share", bounds=("rate_low", "rate_high")),
        Column(name="n", title="people", kind="count"),
        Column(name="reason", title=None),
    )
    rows = []
    for judge in judges:
        for name, info in judge.infos.items():
            estimate = judge.estimates[name]
            if not name.startswith(_ERRORS):
                continue
            pairs = estimate.params.get("pairs")
            shown = estimate_cell(estimate) if estimate.value is not None else Cell(value=None, title=estimate.reason)
            rows.append(
                (
                    *text_cells(judge.label),
                    Cell(value=name, title=info.title),
                    Cell(value=pairs if isinstance(pairs, int) else None),
                    shown,
                    Cell(value=estimate.n),
                    *text_cells(estimate.reason or ""),
                )
            )
    return Table(
        name="judge",
        title="Errors of the judge" + (f" {one}" if one else "s"),
        columns=columns,
        rows=tuple(rows),
        lead=2,
    )


def controls_table(judge: Judge, number: int, metrics: Sequence[str] = ()) -> Table:
    """A row for each metric that some control has a value for, a column for each control."""
    by_control = {control: judge.of_control(control) for control in CONTROLS}
    known = dict.fromkeys(name for names in by_control.values() for name in names)
    shown = [control for control, names in by_control.items() if names]
    columns = [Column(name="metric", title="")]
    for control in shown:
        title = CONTROLS[control].removeprefix("control: ")
        columns.append(Column(name=control, title=title, kind="number", bounds=(f"{control}_low", f"{control}_high")))
    rows = []
    for name in known:
        if metrics and name not in metrics:
            continue
        info = judge.infos.get(next(by_control[control][name] for control in shown if name in by_control[control]))
        percent = info is not None and info.percent
        title = name if info is None else info.title.rpartition(", ")[0] + arrow(info.higher_is_better)
        kind: Kind = "percent" if percent else "number"
        estimates = (judge.estimates.get(by_control[control].get(name, "")) for control in shown)
        cells = (estimate_cell(estimate, kind=kind) for estimate in estimates)
        rows.append((Cell(value=name, title=title), *cells))
    title = f"Controls, judge {judge.label}"
    return Table(name=f"controls-{number}", title=title, columns=tuple(columns), rows=tuple(rows))
