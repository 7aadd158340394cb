"""The gate where bounds are missing, meaningless or in the unit of somebody else's metric."""

from __future__ import annotations

import json
import math

import pytest
from test_gate import call, codes, finished

from mibench import registry
from mibench.api import MetricInfo, MibenchError, metric
from mibench.cli.gate import margins_of
from mibench.reports.gate.gate import gate


def test_bounds_that_few_people_do_not_give_are_null_in_json(tmp_path):
    old, new = finished(tmp_path, 0.35, people=4), finished(tmp_path, 0.2, tag="+new", people=4)
    assert math.isinf(gate(new, old).tests[0].upper)
    result = call("--baseline", old, new, "--json")
    assert result.exit_code == 3
    (test,) = json.loads(result.stdout)["tests"]
    assert (test["lower"], test["upper"], test["detectable"]) == (None, None, None)


def test_one_bound_that_cannot_be_checked_hides_no_other_that_fails(tmp_path):
    old = finished(tmp_path, 0.35, accuracy=None)
    result = gate(finished(tmp_path, 0.1, tag="+new", accuracy=0.5), old, min_accuracy=0.95, max_drop=0.01)
    assert result.verdict == "fail"
    assert codes(result) == {"accuracy_unknown", "accuracy_below_minimum"}


@pytest.mark.parametrize(
    "options",
    [{"max_drop": math.nan}, {"max_drop": 5}, {"min_accuracy": math.nan}, {"min_accuracy": 95}, {"min_accuracy": -1}],
)
def test_a_bound_that_nothing_could_break_is_refused(tmp_path, options):
    old = finished(tmp_path, 0.35)
    with pytest.raises(MibenchError, match="share from 0 to 1"):
        gate(old, old, **options)


def test_an_allowed_increase_in_points_is_no_share(tmp_path):
    old = finished(tmp_path, 0.35)
    with pytest.raises(MibenchError, match=r"acc1 is a share below 1, got 5.*write 0\.05"):
        gate(old, old, margins={"acc1": 5})


def test_points_are_points_for_a_metric_of_a_third_party(monkeypatch):
    @metric(MetricInfo("taken", "taken", percent=True), MetricInfo("height", "height"))
    def measure(inputs):
        return []

    names, load = registry.names, registry.load
    monkeypatch.setattr(registry, "names", lambda kind: ["theirs"] if kind == "metric" else names(kind))
    monkeypatch.setattr(registry, "load", lambda kind, name: measure if name == "theirs" else load(kind, name))
    assert margins_of(("5", "taken=5", "height=5", "true_identity_error=0.01")) == {
        "acc1": 0.05,
        "taken": 0.05,
        "height": 5.0,
        "true_identity_error": 0.01,
    }
