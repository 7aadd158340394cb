"""The index of a folder of runs, which leads to the page of each."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from mibench.api import MibenchError
from mibench.results import ABSENT, StoredRun, estimate_text

from .elements import PageCell, PageColumn, PageTable
from .environment import page

TITLES = ("run", "attack", "target", "data set", "protocol", "seed", "status", "acc@1", "KNN distance")
CHOICES = ("attack", "target", "data set", "protocol", "status")


def index_page(runs: Mapping[str, StoredRun], title: str) -> str:
    """HTML with a row per run; those that are complete lead to ``/run/NAME``, all together to ``/compare``.

    Args:
        runs: name -> run, finished or not; the name is its path below the folder, with slashes.
        title: what the folder is called.
    """
    rows = [_row(name, run) for name, run in sorted(runs.items())]
    columns = [PageColumn(name, numeric=name in ("acc@1", "KNN distance"), choices=name in CHOICES) for name in TITLES]
    complete = sum(bool(row[0].link) for row in rows)
    table = PageTable(name="index-table", title="Runs", columns=columns, rows=rows, sortable=True)
    headline = f"{len(rows):,} run{'' if len(rows) == 1 else 's'}, {complete:,} of them complete."
    return page("index.html", {"title": f"Runs in {title}", "headline": headline, "table": table, "several": complete})


def _row(name: str, run: StoredRun) -> tuple[PageCell, ...]:
    """Of a run that cannot be read: its name, and why."""
    try:
        facts = [run.attack_title, run.target, run.dataset, run.protocol, str(run.seed), run.status]
        scored = run.status == "complete" and (run.path / "metrics.json").is_file()
        metrics = [_metric(run, key) for key in ("acc1", "knn_distance")] if scored else [PageCell(text=ABSENT)] * 2
    except MibenchError as error:
        facts, scored = ["", "", "", "", "", "cannot be read"], False
        metrics = [PageCell(text=str(error.problems[0])), PageCell(text=ABSENT)]
    link = f"/run/{quote(name, errors='surrogateescape')}" if scored else None
    head = PageCell(text=name, sort=name, header=True, link=link)
    return (head, *(PageCell(text=fact, sort=fact) for fact in facts), *metrics)


def _metric(run: StoredRun, name: str) -> PageCell:
    estimate = run.metrics.get(name)
    value = "" if estimate is None or estimate.value is None else repr(float(estimate.value))
    return PageCell(text=estimate_text(estimate, run.infos.get(name)), sort=value)
