"""The page of one run: what leaked, beside the floor; how it was attacked; who is exposed; how to make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mibench.reports import tables
from mibench.reports.figures.accuracy_distance import accuracy_distance_plot
from mibench.reports.figures.curves import curves_plot
from mibench.reports.figures.identities import identity_plot
from mibench.reports.figures.spread import spread_plot
from mibench.reports.formatting import FLOOR_LABEL, context, hides_faces, query_budget, sentence
from mibench.reports.table_model import Cell, Column, Table, text_cells
from mibench.results import (
    StoredRun,
    count_text,
    estimate_text,
    interval_text,
    number_text,
)

from .charts import chart
from .elements import Fact, PageTable, page_table
from .environment import page
from .faces import WHY_HIDDEN, PrivateImages, by_exposure, faces
from .reproduce import command, provenance, settings

HEADLINE = ("acc1", "knn_distance", "true_identity_error")
LEVEL = 0.05


def run_page(run: StoredRun, private: PrivateImages | None, *, show_faces: bool) -> str:
    """HTML of a finished run.

    Args:
        run: the run; its floor is found beside it.
        private: gives private images of identities.
        show_faces: show faces although the people may be real.
    """
    floor = run.floor if run.floor is not None and run.floor.status == "complete" else None
    label = run.attack_title
    rows = [(label, run)] + ([(FLOOR_LABEL, floor)] if floor is not None else [])
    hidden = hides_faces(run, False if show_faces else None)
    people = len(by_exposure(run))
    measured = page_table(dataclasses.replace(tables.metrics(rows), title="Every metric"), "metrics-table")
    content = {
        "title": f"{label} against {run.target}",
        "control": run.sees_private,
        "headline": headline(run, floor),
        "tiles": _tiles(run, floor),
        "facts": _facts(run, people),
        "doubts": [f"{name}: {reason}" for name, reason in run.missing.items()],
        "settings": _settings_table(run),
        "metrics": measured,
        "against": None if floor is None else page_table(tables.against_floor(rows[:1], floor), "against-floor"),
        "controls": page_table(dataclasses.replace(tables.summary(rows), title="Controls"), "controls-table"),
        "judge": page_table(tables.judge([run]), "judge-table"),
        "distance": chart(
            lambda: accuracy_distance_plot(run, label, floor),
            "chart-distance",
            "Accuracy against distance",
            f"A point for each of {people:,} identities; the table of people has the numbers.",
        ),
        "identities": chart(
            lambda: identity_plot(run, label, floor),
            "chart-identities",
            "Accuracy and KNN distance of each identity",
            "Identities from the most often recognised to the least; the table of people has the numbers.",
        ),
        "people": people_table(run),
        "faces": faces(run, private, hidden=hidden, why=WHY_HIDDEN),
        "spread": chart(
            lambda: spread_plot([run], [label], floor),
            "chart-spread",
            "Fidelity and diversity",
            "Precision against recall and density against coverage; the table of metrics has the numbers.",
        ),
        "curves": chart(
            lambda: curves_plot([run], [label]),
            "chart-curves",
            "Curves of the attack",
            f"What the attack logged over its steps: {', '.join(sorted(run.curves)) or 'nothing'}.",
        ),
        "costs": page_table(tables.costs(rows), "costs-table"),
        "machine_costs": _machine_costs(run),
        "provenance": provenance(run),
        "command": command(run),
        "digest": str(run.record.get("digest", ""))[:8],
    }
    return page("run.html", content)


def headline(run: StoredRun, floor: StoredRun | None) -> str:
    """What leaked, in sentences with the interval, the floor and the test between them."""
    accuracy = run.metrics.get("acc1")
    if accuracy is None or accuracy.value is None:
        reason = "it was not computed" if accuracy is None else accuracy.reason or "no reason was given"
        return f"How many reconstructions the judge accepts is not known: {reason}."
    first = (
        f"The judge accepts {estimate_text(accuracy, run.infos.get('acc1'))} of the reconstructions as the person "
        f"under attack (95 % interval over {count_text(accuracy.n)} people)"
    )
    if run.sees_private:
        beside = "" if floor is None else f"; of what the prior gives without them, {_accepted(floor)}"
        return f"A control, no attack: it was handed images of the private people. {first}{beside}."
    if floor is None:
        return f"{first}. There is no floor beside it: what would be accepted without an attack is not known."
    text = f"{first}; without an attack, {_accepted(floor)}."
    difference, p_value = _from_floor(run, floor)
    if difference is None or difference.value is None:
        reason = "" if difference is None or not difference.title else f": {difference.title}"
        return f"{text} The two are not compared{reason}."
    points = interval_text(float(difference.value), difference.low, difference.high, percent=True)
    points = points.replace(" %", " points")
    if p_value is None:
        return f"{text} The difference is {points}."
    test = f"p {'< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'}, paired over people, adjusted for every metric"
    if p_value > LEVEL:
        return f"{text} The difference, {points} ({test}), is not told apart from none: that does not show it is none."
    return f"{text} The attack {'adds' if float(difference.value) > 0 else 'changes it by'} {points} ({test})."


def _accepted(run: StoredRun) -> str:
    return estimate_text(run.metrics.get("acc1"), run.infos.get("acc1"))


def _from_floor(run: StoredRun, floor: StoredRun) -> tuple[Cell | None, float | None]:
    """The difference in acc@1 as the table against the floor has it, and its p value."""
    table = tables.against_floor([(run.attack_title, run)], floor)
    place = {column.name: index for index, column in enumerate(table.columns)}
    for row in table.rows:
        if row[place["metric"]].value == "acc1":
            p_value = row[place["p_holm"]].value
            return row[place["difference"]], float(p_value) if isinstance(p_value, int | float) else None
    return None, None


def people_table(run: StoredRun) -> PageTable:
    """A row per identity, the most exposed first."""
    whole = tables.identities([(run.attack_title, run)])
    columns = [column for column in whole.columns if column.name != "run"]
    place = {column.name: index for index, column in enumerate(whole.columns)}
    by_identity = {str(row[place["identity"]].value): row for row in whole.rows}
    rows = []
    for rank, identity in enumerate(by_exposure(run), start=1):
        row = by_identity[str(identity)]
        accuracy = row[place["acc1"]].value if "acc1" in place else None
        cells = [row[place[column.name]] for column in columns]
        rows.append((*text_cells(str(identity)), Cell(value=rank), *text_cells(_recognised(accuracy)), *cells[1:]))
    head = [
        Column(name="identity", title="identity"),
        Column(name="rank", title="exposure rank", kind="count"),
        Column(name="recognised", title="recognised"),
    ]
    table = Table(
        name="people",
        title="People, the most exposed first",
        columns=(*head, *columns[1:]),
        rows=tuple(rows),
        notes=(f"{sentence(context(run))} Means over the selected reconstructions of each person.",),
    )
    return page_table(table, "people-table", sortable=True, choices=("recognised",), measured=True)


def _recognised(accuracy: object) -> str:
    if not isinstance(accuracy, int | float):
        return "unknown"
    return "never" if accuracy <= 0 else "always" if accuracy >= 1 else "sometimes"


def _tiles(run: StoredRun, floor: StoredRun | None) -> list[tuple[str, str, str]]:
    """Headline metrics: title, value with its interval, the floor's."""
    tiles = []
    for name in HEADLINE:
        estimate, info = run.metrics.get(name), run.infos.get(name)
        if estimate is None or info is None:
            continue
        better = {True: "higher leaks more", False: "lower leaks more", None: ""}[estimate.higher_is_better]
        better = "" if run.sees_private else better
        beside = "no floor" if floor is None else f"floor {estimate_text(floor.metrics.get(name), info)}"
        tiles.append((f"{info.heading}{f' ({better})' if better else ''}", estimate_text(estimate, info), beside))
    return tiles


def _facts(run: StoredRun, people: int) -> list[Fact]:
    spec, attacked = run.specification, run.attacked
    protocol = spec.get("protocol")
    access = protocol.get("access") if isinstance(protocol, dict) else None
    accuracy, images = attacked.get("test_accuracy"), attacked.get("test_images")
    utility = "not recorded" if accuracy is None else f"{number_text(float(accuracy), percent=True)} %"
    if accuracy is not None and images is not None:
        utility += f" on {count_text(float(images))} images"
    defence = attacked.get("defence")
    budget = query_budget(run)
    facts = [
        Fact("attack", run.attack_title),
        Fact("preset", str(spec.get("preset") or "none")),
        Fact("target", run.target),
        Fact("test accuracy of the target", utility),
        Fact("defence", str(defence["name"]) if isinstance(defence, dict) else "none"),
        Fact("data set", run.dataset),
        Fact("people under attack", f"{people:,}"),
        Fact("protocol", run.protocol),
        Fact("access", str(access or "not recorded")),
        Fact("query budget per person", "none" if budget is None else f"{count_text(budget)} images"),
        Fact("seed", str(run.seed)),
    ]
    for kind in ("prior", "judge", "regressor", "surrogate"):
        weights = spec.get(kind)
        if isinstance(weights, dict):
            facts.append(Fact(kind, str(weights.get("card", "unknown"))))
    return facts


def _settings_table(run: StoredRun) -> PageTable:
    columns = tuple(Column(name=name, title=name) for name in ("setting", "value", "origin"))
    rows: Sequence[tuple[Cell, ...]] = [text_cells(*line) for line in settings(run)]
    return page_table(
        Table(name="settings", title="Settings", columns=columns, rows=tuple(rows), notes=()), "settings-table"
    )


def _machine_costs(run: StoredRun) -> list[Fact]:
    """Seconds and memory, which belong to the machine that made the run."""
    cost = run.cost()
    facts = []
    for stage, title in (("prepare", "preparation"), ("attack", "attack on everybody"), ("identity", "each person")):
        seconds = cost[stage]["seconds"]
        facts.append(Fact(f"seconds, {title}", "not recorded" if seconds is None else number_text(seconds)))
    memory = cost["attack"]["peak_memory_bytes"]
    facts.append(Fact("peak memory", "not recorded" if memory is None else f"{memory / 1e6:,.0f} MB"))
    return facts
