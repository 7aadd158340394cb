"""What others published, shown beside our numbers where it holds for the same thing, and nowhere else.

``published.csv`` holds only values that were read in released code or its files, never remembered ones. Columns:
``defence``, its ``settings`` (``name=value``, apart by spaces), ``dataset``, ``model``, ``attack`` (empty: utility),
``metric``, ``value`` (shares in [0, 1]), ``source``, and ``protocol``: the name of ours that it holds under, or, where
there is none, what it was measured under in words.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mibench.results import StoredRun

from .defended import Classifier


@dataclass(frozen=True, kw_only=True)
class Published:
    """A line of ``published.csv``; see the module."""

    defence: str
    settings: str
    dataset: str
    model: str
    attack: str
    metric: str
    value: float
    source: str
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Reported:
    """Published values of one metric that hold for a classifier, or the reason why they do not.

    Attributes:
        attack: empty for utility.
        values: lowest first; empty where ``mismatch`` says why they are not shown.
        mismatch: what is published for the same defence under other circumstances.
    """

    attack: str
    metric: str
    values: tuple[float, ...]
    sources: tuple[str, ...]
    mismatch: str = ""


@cache
def published() -> tuple[Published, ...]:
    """Every published value."""
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(value=float(line["value"]), **{name: cell for name, cell in line.items() if name != "value"})
        for line in csv.DictReader(io.StringIO(text))
    )


def reported_beside(
    classifier: Classifier, run: StoredRun, values: Sequence[Published] | None = None
) -> tuple[Reported, ...]:
    """What is published for a classifier, by attack and metric.

    Args:
        classifier: whose row it is.
        run: an attack on it: its data set, protocol and architecture must be those of the published value.
        values: to choose from; those of ``published.csv`` by default.
    """
    same = [each for each in (published() if values is None else values) if each.defence == classifier.defence]
    here = (run.dataset, classifier.group.partition("@")[0], run.protocol.partition(" v")[0])
    results = []
    for attack, metric in dict.fromkeys((each.attack, each.metric) for each in same):
        alike = [each for each in same if (each.attack, each.metric) == (attack, metric)]
        fits = [
            each
            for each in alike
            if (each.dataset, each.model, each.protocol) == here and _set_so(each.settings, classifier)
        ]
        elsewhere = dict.fromkeys(
            " ".join(filter(None, (each.model, "on", each.dataset, each.settings))) for each in alike
        )
        results.append(
            Reported(
                attack=attack,
                metric=metric,
                values=tuple(sorted(each.value for each in fits)),
                sources=tuple(dict.fromkeys(each.source for each in fits)),
                mismatch="" if fits else "; ".join(elsewhere),
            )
        )
    return tuple(results)


def _set_so(settings: str, classifier: Classifier) -> bool:
    """Whether a classifier was trained with these settings."""
    for pair in settings.split():
        name, _, text = pair.partition("=")
        if name not in classifier.settings:
            return False
        value = classifier.settings[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(float(text) - value) > 1e-9:
                return False
        elif str(value) != text:
            return False
    return True
