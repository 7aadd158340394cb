"""What groups of metrics yield, as the groups themselves declare it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache

from mibench import registry
from mibench.api import MetricInfo
from mibench.api.metric import Metric

from . import METRICS
from .inputs import MetricFunction


def built_in(group: str) -> MetricFunction:
    """The function of a built-in group; the registry is not asked, so that scoring works on its own."""
    module, attribute = METRICS[group].split(":")
    function: MetricFunction = getattr(importlib.import_module(module), attribute)
    return function


def infos_of(function: MetricFunction) -> tuple[MetricInfo, ...]:
    """What a metric says about its estimates; empty for a plain function, which says nothing."""
    return function.infos if isinstance(function, Metric) else ()


@cache
def built_in_infos() -> Mapping[str, MetricInfo]:
    """Every estimate of the built-in groups by name."""
    return {info.name: info for group in METRICS for info in infos_of(built_in(group))}


def declared_infos(groups: Iterable[str]) -> list[MetricInfo]:
    """What groups declare of their estimates, built-in or of a third party."""
    return [info for group in groups for info in infos_of(_function(group))]


def _function(group: str) -> MetricFunction:
    function: MetricFunction = built_in(group) if group in METRICS else registry.load("metric", group)
    return function


def declared_estimates(groups: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Group -> names of the estimates that it declares, built-in or of a third party.

    Raises:
        MibenchError: an unknown group.
    """
    return {group: tuple(info.name for info in infos_of(_function(group))) for group in groups}
