"""A gate with several accepted classifiers: the one that leaks most by each test counts."""

from __future__ import annotations

import json

import pytest
from test_gate import call, finished

import mibench
from mibench.api import MibenchError
from mibench.reports.gate.gate import gate, write_baseline

MARGIN = {"acc1": 0.1}


@pytest.fixture
def accepted(tmp_path):
    """Three trainings of one recipe that leak 30, 40 and 50 % or so, as files."""
    files = []
    for number, level in enumerate((0.3, 0.4, 0.5)):
        run = finished(tmp_path / "old", level, tag=f"+seed-{number}", accuracy=0.98 - number / 100, seed=number)
        files.append(write_baseline(run, tmp_path / f"leak-{number}.json"))
    return files


def test_the_leakiest_counts(accepted, tmp_path):
    new = finished(tmp_path, 0.5, tag="+new", seed=9)
    alone = gate(new, accepted[0], margins=MARGIN)
    among = gate(new, accepted, margins=MARGIN)
    assert alone.verdict == "fail"
    assert among.verdict == "pass"
    assert [test.against for test in among.tests] == ["vgg16@synthfaces+seed-2"]
    assert among.seeds == ((9,), (0, 1, 2))
    assert among.baselines == tuple(f"vgg16@synthfaces+seed-{number}" for number in range(3))
    assert among.as_plain()["tests"] == gate(new, accepted[2], margins=MARGIN).as_plain()["tests"]


def test_more_than_the_leakiest_fails(accepted, tmp_path):
    new = finished(tmp_path, 0.75, tag="+new", seed=9)
    assert gate(new, accepted, margins=MARGIN).verdict == "fail"


def test_the_order_of_files_does_not_matter(accepted, tmp_path):
    new = finished(tmp_path, 0.45, tag="+new", seed=9)
    one, other = (gate(new, files, margins=MARGIN).as_plain() for files in (accepted, accepted[::-1]))
    assert one["tests"] == other["tests"]
    assert one["utility"] == other["utility"]


def test_where_less_is_leaking_more_the_leakiest_has_the_least(accepted, tmp_path):
    new = finished(tmp_path, 0.45, tag="+new", seed=9)
    test = gate(new, accepted, margins={"feature_distance": 0.1}).tests[0]
    alone = [gate(new, file, margins={"feature_distance": 0.1}).tests[0].old for file in accepted]
    assert test.old == min(alone)


def test_accuracy_may_drop_below_the_lowest_accepted(accepted, tmp_path):
    new = finished(tmp_path, 0.3, tag="+new", accuracy=0.955, seed=9)
    assert gate(new, accepted, margins=MARGIN, max_drop=0.01).verdict == "pass"
    assert gate(new, accepted[0], margins=MARGIN, max_drop=0.01).verdict == "fail"


def test_runs_and_files_may_be_mixed(accepted, tmp_path):
    new = finished(tmp_path, 0.5, tag="+new", seed=9)
    run = finished(tmp_path / "more", 0.45, tag="+seed-3", seed=3)
    result = gate(new, [*accepted, run], margins=MARGIN)
    assert set(result.baselines) == {f"vgg16@synthfaces+seed-{number}" for number in range(4)}


def test_runs_of_one_target_are_one_classifier(tmp_path):
    new = finished(tmp_path, 0.4, tag="+new", seed=9)
    runs = [finished(tmp_path / str(seed), 0.4, seed=seed) for seed in (0, 1)]
    result = gate(new, runs, margins=MARGIN)
    assert result.baselines == ("vgg16@synthfaces",)
    assert result.seeds[1] == (0, 1)


def test_a_folder_with_runs_of_several_targets_is_refused(tmp_path):
    finished(tmp_path / "runs", 0.4)
    new = finished(tmp_path / "runs", 0.8, tag="+new", seed=9)
    with pytest.raises(MibenchError, match="2 targets"):
        gate(new, tmp_path / "runs")


def test_one_with_another_protocol_is_refused(accepted, tmp_path):
    new = finished(tmp_path, 0.5, tag="+new", seed=9)
    other = finished(tmp_path / "other", 0.5, tag="+other", people=30, seed=3)
    with pytest.raises(MibenchError, match="in the baseline"):
        gate(new, [*accepted, other], margins=MARGIN)


def test_no_baseline_is_refused(tmp_path):
    with pytest.raises(MibenchError, match="no baseline"):
        gate(finished(tmp_path, 0.4), [])


def test_the_command_takes_several_and_says_which_counted(accepted, tmp_path):
    new = finished(tmp_path, 0.5, tag="+new", seed=9)
    options = [part for file in accepted for part in ("--baseline", file)]
    result = call(new, *options, "--max-increase", 10)
    assert result.exit_code == 0
    assert "against vgg16@synthfaces+seed-2" in result.output
    assert "most leaking of 3 baselines" in result.output
    data = json.loads(call(new, *options, "--max-increase", 10, "--json").output)
    assert data["baselines"] == [f"vgg16@synthfaces+seed-{number}" for number in range(3)]
    assert data["tests"][0]["against"] == "vgg16@synthfaces+seed-2"


def test_several_files_cannot_be_written_at_once(accepted):
    result = call("--update-baseline", "--baseline", accepted[0], "--baseline", accepted[1], "--target", "vgg16")
    assert result.exit_code == 2
    assert "writes one file, got 2" in result.output


@pytest.mark.parametrize("option", [("--attack", "ppa"), ("--protocol", "demo"), ("--set", "protocol.identities=5")])
def test_what_only_a_target_to_attack_can_use_is_not_ignored(tmp_path, option):
    result = call("--update-baseline", "--baseline", tmp_path / "leak.json", finished(tmp_path, 0.4), *option)
    assert result.exit_code == 2
    assert f"{option[0]} would say how to attack a target" in result.output
    assert not (tmp_path / "leak.json").exists()


def test_a_target_needs_a_file(tmp_path):
    run = finished(tmp_path, 0.4)
    with pytest.raises(MibenchError, match="baseline is a file"):
        mibench.gate(baseline=[run], target="vgg16")
    with pytest.raises(MibenchError, match="there is no"):
        mibench.gate(baseline=tmp_path / "none.json", target="vgg16")
