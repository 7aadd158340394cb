"""What is required of a classifier, and what each group of metrics is said to yield."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mibench.api import Card, ImageSpec, MibenchError, WeightsFile
from mibench.metrics import DEFAULT_METRICS, METRICS
from mibench.metrics.declared import built_in_infos, declared_estimates
from mibench.runs.protocol import load_protocol, protocol_files
from mibench.weights.minimum_accuracy import least_accuracy, refuse_weak, weakness

CARD = Card(
    name="net@people",
    kind="target",
    architecture="net",
    dataset="people",
    image=ImageSpec(8),
    weights=WeightsFile("net_people.safetensors", "0" * 64, 1),
    classes=100,
    measured={"test_accuracy": 0.019},
)


@pytest.mark.parametrize(("classes", "least"), [(2, 0.75), (3, 2 / 3), (10, 0.2), (1000, 0.002)])
def test_the_least_is_twice_chance_and_can_be_reached(classes: int, least: float) -> None:
    assert least_accuracy(classes) == pytest.approx(least)


def test_weak_is_below_the_least() -> None:
    assert weakness(CARD) is not None
    assert weakness(replace(CARD, measured={"test_accuracy": 0.02})) is None
    assert weakness(CARD, 0.0) is None
    assert weakness(replace(CARD, measured=None)) is None, "nobody measured it"
    with pytest.raises(MibenchError, match=r"1\.90% of its test images right \(chance 1\.00%\).*--min-accuracy 0"):
        refuse_weak(CARD, None)


def test_every_built_in_group_says_what_it_yields() -> None:
    declared = declared_estimates(METRICS)
    assert all(declared.values())
    yielded = [name for names in declared.values() for name in names]
    assert set(built_in_infos()) == set(yielded)
    assert len(yielded) == len(set(yielded))


@pytest.mark.parametrize("name", sorted(protocol_files()))
def test_every_shipped_protocol_demands_what_its_metrics_yield(name: str) -> None:
    protocol, _ = load_protocol(name)
    declared = declared_estimates(protocol.metrics or DEFAULT_METRICS)
    made = {estimate for estimates in declared.values() for estimate in estimates}
    assert set(protocol.required) <= made
