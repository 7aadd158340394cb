"""What metrics say about themselves, as a run stored it: titles, units, directions, columns of ``samples.csv``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from mibench.api import TOPICS, VIEWS, MetricInfo
from mibench.system.canonical import JsonObject

_FIELDS = frozenset(field.name for field in dataclasses.fields(MetricInfo))


def read_infos(stored: Iterable[JsonObject]) -> dict[str, MetricInfo]:
    """``metrics`` of ``run.json``, checked already; fields, topics and views of a later version are left out."""
    infos: dict[str, MetricInfo] = {}
    for entry in stored:
        fields = {name: value for name, value in entry.items() if name in _FIELDS}
        if "proportion" not in fields and (known := built_in_infos().get(entry["name"])) is not None:
            fields["proportion"] = known.proportion  # a run from before metrics said so
        fields["topic"] = topic if (topic := entry.get("topic")) in TOPICS else "other"
        fields["views"] = tuple(view for view in VIEWS if view in entry.get("views", VIEWS))
        infos.setdefault(entry["name"], MetricInfo(**fields))
    return infos


def built_in_infos() -> Mapping[str, MetricInfo]:
    """Every metric of mibench itself: for runs that stored no descriptions, and for tables without a run."""
    from mibench.metrics import declared

    return declared.built_in_infos()


def merged_infos(of_runs: Iterable[Mapping[str, MetricInfo]]) -> dict[str, MetricInfo]:
    """The metrics of several runs in the order of tables: by topic, then as they were met; the first run's words."""
    infos: dict[str, MetricInfo] = {}
    for of_run in of_runs:
        for name, info in of_run.items():
            infos.setdefault(name, info)
    return dict(sorted(infos.items(), key=lambda item: TOPICS.index(item[1].topic)))
