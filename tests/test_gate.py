"""The gate: what passes, fails and stays undecided, and what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from comparable_runs import edit, make

from mibench.api import MibenchError
from mibench.cli import cli
from mibench.reports.gate import baseline as baselines
from mibench.reports.gate.gate import gate, write_baseline

PEOPLE = 60


CONFIG = """attack: {attack}
target: vgg16{tag}
dataset: synthfaces
protocol: toy
seed: 0
precision: float32
settings:
  dataset:
    root: /home/somebody/faces
    spread: 0.65
"""


def finished(
    folder: Path,
    level: float,
    *,
    tag: str = "",
    accuracy: float | None = 0.98,
    judge: float | None = 1.0,
    people: int = PEOPLE,
    **options,
) -> Path:
    """A finished attack and its floor against ``vgg16`` or ``vgg16+tag``."""

    def complete(record) -> None:
        record["spec"]["target"].update(card=f"vgg16@synthfaces{tag}", sha256=f"sha{tag}")
        record["attacked"] = {"test_accuracy": accuracy, "test_images": 3000, "seconds": 1.0, "defence": None}
        record["code"] = {"attack ppa": "c0de"}

    def with_control(metrics) -> None:
        if judge is not None:
            metrics["control_private_test_acc1"] = {**metrics["acc1"], "value": judge}

    for attack, strength, floor in (("floor", 0.05, None), ("ppa", level, f"floor{tag}")):
        run = make(folder / f"{attack}{tag}", attack, strength, people=people, floor=floor, **options)
        edit(run, "run.json", complete)
        edit(run, "metrics.json", with_control)
        (run / "config.yaml").write_text(CONFIG.format(attack=attack, tag=tag))
    return folder / f"ppa{tag}"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return finished(tmp_path, 0.35)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["gate", *(str(argument) for argument in arguments)])


def codes(result) -> set[str]:
    return {reason.code for reason in result.reasons}


def test_an_unchanged_classifier_passes(old, tmp_path):
    new = finished(tmp_path, 0.35, tag="+new", seed=1)
    result = gate(new, old, margins={"acc1": 0.15})
    assert (result.verdict, result.exit_code) == ("pass", 0)
    (test,) = result.tests
    assert test.lower < test.increase < test.upper < 0.15
    assert test.p_within <= 0.05
    assert test.new - test.old == pytest.approx(test.increase)


def test_one_that_leaks_more_fails(old, tmp_path):
    result = gate(finished(tmp_path, 0.75, tag="+new"), old, margins={"acc1": 0.05})
    assert (result.verdict, result.exit_code) == ("fail", 1)
    assert codes(result) == {"leaks_more"}
    assert result.tests[0].increase > 0.05
    assert result.tests[0].p_more <= 0.05


def test_one_that_leaks_less_passes(old, tmp_path):
    assert gate(finished(tmp_path, 0.1, tag="+new"), old).verdict == "pass"


def test_a_metric_where_less_is_better_for_the_attack_is_turned_round(old, tmp_path):
    worse, better = finished(tmp_path, 0.7, tag="+worse"), finished(tmp_path, 0.1, tag="+better")
    margins = {"true_identity_error": 0.02}
    failing, passing = (gate(each, old, margins=margins) for each in (worse, better))
    assert (failing.verdict, passing.verdict) == ("fail", "pass")
    assert failing.tests[0].increase > 0
    assert failing.tests[0].new < failing.tests[0].old  # a smaller error, so more leaks


def test_too_few_people_are_undecided_and_told_how_many_would_do(tmp_path):
    old = finished(tmp_path, 0.35, people=8)
    result = gate(finished(tmp_path, 0.35, tag="+new", people=8, seed=1), old, margins={"acc1": 0.15})
    assert (result.verdict, result.exit_code) == ("undecided", 3)
    assert codes(result) <= {"margin_not_seen", "near_margin"}
    assert result.tests[0].needed > 8
    assert f"about {result.tests[0].needed} identities" in result.render()


def test_a_share_that_is_nearly_one_cannot_rise(tmp_path):
    old = finished(tmp_path, 1.6)
    result = gate(finished(tmp_path, 1.6, tag="+new", seed=1), old, margins={"acc1": 0.2})
    assert result.verdict == "undecided"
    assert "cannot_rise" in codes(result)


def test_a_weak_judge_is_undecided(tmp_path):
    old = finished(tmp_path, 0.35, judge=0.5)
    result = gate(finished(tmp_path, 0.1, tag="+new", judge=0.5), old)
    assert result.verdict == "undecided"
    assert codes(result) == {"judge_weak"}


def test_a_floor_that_moved_is_undecided(old, tmp_path):
    new = finished(tmp_path, 0.1, tag="+new")
    shutil.rmtree(tmp_path / "floor+new")
    floor = make(tmp_path / "floor+new", "floor", 0.6, people=PEOPLE)
    edit(
        floor, "run.json", lambda record: record["spec"]["target"].update(card="vgg16@synthfaces+new", sha256="sha+new")
    )
    result = gate(new, old)
    assert result.verdict == "undecided"
    assert codes(result) == {"floor_moved"}


def test_a_metric_without_value_is_undecided(tmp_path):
    old = finished(tmp_path, 0.35, truth=False)
    new = finished(tmp_path, 0.1, tag="+new", truth=False)
    result = gate(new, old, margins={"acc1": 0.05, "true_identity_error": 0.01})
    assert result.verdict == "undecided"
    assert codes(result) == {"metric_missing"}
    assert "nobody knows the truth" in result.render()


@pytest.mark.parametrize(
    ("accuracy", "bounds", "verdict", "code"),
    [
        (0.90, {"min_accuracy": 0.95}, "fail", "accuracy_below_minimum"),
        (0.96, {"min_accuracy": 0.95}, "pass", None),
        (0.96, {"max_drop": 0.01}, "fail", "accuracy_dropped"),
        (0.975, {"max_drop": 0.01}, "pass", None),
        (None, {"min_accuracy": 0.95}, "undecided", "accuracy_unknown"),
    ],
)
def test_utility_has_bounds_of_its_own(old, tmp_path, accuracy, bounds, verdict, code):
    result = gate(finished(tmp_path, 0.1, tag="+new", accuracy=accuracy), old, **bounds)
    assert result.verdict == verdict
    assert codes(result) == ({code} if code else set())


def test_several_metrics_share_one_level(old, tmp_path):
    new = finished(tmp_path, 0.42, tag="+new")
    alone = gate(new, old, margins={"acc1": 0.01}).tests[0].p_more
    together = gate(new, old, margins={"acc1": 0.01, "acc5": 0.01, "true_identity_error": 0.001})
    assert next(test.p_more for test in together.tests if test.metric == "acc1") >= alone


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["judge"].update(sha256="another"), "judge differs"),
        (lambda spec: spec.update(dataset_digest="d2"), "data set differs"),
        (lambda spec: spec["protocol"].update(samples=9), "protocol.samples differs"),
        (lambda spec: spec["attack_settings"].update(steps=4), "steps"),
        (lambda spec: spec["prior"].update(sha256="another"), "prior"),
        (lambda spec: spec.update(precision="bfloat16"), "precision"),
    ],
)
def test_what_was_made_otherwise_is_refused_with_what_differs(old, tmp_path, change, said):
    new = finished(tmp_path, 0.1, tag="+new")
    for run in (new, tmp_path / "floor+new"):
        edit(run, "run.json", lambda record: change(record["spec"]))
    with pytest.raises(MibenchError, match=re.escape(said)):
        gate(new, old)


def test_changed_code_of_an_attack_is_refused_and_another_version_of_the_rest_is_not(old, tmp_path):
    new = finished(tmp_path, 0.1, tag="+new")
    edit(new, "run.json", lambda record: record["code"].update({"mibench.api": "changed"}))
    assert gate(new, old).verdict == "pass"
    edit(new, "run.json", lambda record: record["code"].update({"attack ppa": "changed"}))
    with pytest.raises(MibenchError, match="code has changed"):
        gate(new, old)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margins": {"acc1": 0.0}}, "above 0"),
        ({"margins": {"acc2": 0.1}}, "no metric"),
        ({"confidence": 0.3}, "confidence"),
        ({"attacks": ["dmmia"]}, "no attack 'dmmia'"),
    ],
)
def test_bad_bounds_are_refused(old, options, said):
    with pytest.raises(MibenchError, match=re.escape(said)):
        gate(old, old, **options)


def test_a_prior_that_was_trained_against_the_target_may_be_another_one(tmp_path):
    old, new = finished(tmp_path, 0.35), finished(tmp_path, 0.1, tag="+new")
    for run, name in ((old, "one"), (new, "two")):
        edit(run, "run.json", lambda record, name=name: record.update(prior_queries_forward=9))
        edit(run, "run.json", lambda record, name=name: record["spec"]["prior"].update(sha256=name))
    assert gate(new, old).verdict == "pass"


def test_a_baseline_file_says_the_same_as_its_runs(old, tmp_path):
    file = write_baseline(old, tmp_path / "deep" / "leak.json")
    new = finished(tmp_path, 0.42, tag="+new")
    one, two = gate(new, old).as_plain(), gate(new, file).as_plain()
    assert one == two
    assert write_baseline(old, tmp_path / "again.json").read_bytes() == file.read_bytes()


def test_a_baseline_file_has_no_paths_and_no_times(old, tmp_path):
    text = write_baseline(old, tmp_path / "leak.json").read_text()
    assert str(tmp_path) not in text
    assert "/home/somebody" not in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)
    content = json.loads(text)
    assert text == json.dumps(content, indent=1, sort_keys=True) + "\n"
    assert content["rows"][0]["request"]["settings"] == {"dataset": {"spread": 0.65}}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["target"].update(test_accuracy=0.5),
        lambda content: content["rows"][0]["metrics"]["acc1"]["by_identity"].update({"0": 1.0}),
        lambda content: content["rows"][0]["circumstances"].update(protocol="other v1"),
        lambda content: content.pop("checksum"),
    ],
)
def test_an_edited_baseline_is_refused(old, tmp_path, change):
    file = write_baseline(old, tmp_path / "leak.json")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(MibenchError, match="was edited"):
        gate(old, file)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{}", '{"kind": "mibench gate baseline", "schema": 9}', "{" * 4000]
)
def test_what_is_no_baseline_is_refused_in_one_line(old, tmp_path, content):
    file = tmp_path / "leak.json"
    file.write_text(content)
    result = call("--baseline", file, old)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_every_missing_part_of_a_baseline_is_refused(old, tmp_path):
    content = json.loads(write_baseline(old, tmp_path / "leak.json").read_text())
    content.pop("checksum")
    for name in list(content["rows"][0]):
        broken = json.loads(json.dumps(content))
        del broken["rows"][0][name]
        file = tmp_path / "broken.json"
        file.write_text(json.dumps(broken | {"checksum": baselines._checksum(broken)}))
        with pytest.raises(MibenchError, match="is incomplete"):
            baselines.read(file)


def test_two_targets_are_refused(old, tmp_path):
    new = finished(tmp_path, 0.1, tag="+new")
    with pytest.raises(MibenchError, match="2 targets"):
        write_baseline([old, new], tmp_path / "leak.json")


def test_the_command_ends_with_the_verdict(old, tmp_path):
    same, more = finished(tmp_path, 0.35, tag="+same", seed=1), finished(tmp_path, 0.8, tag="+more")
    few = call("--baseline", old, same, "--max-increase", "0.5")
    assert (
        call("--baseline", old, same, "--max-increase", "20").exit_code,
        call("--baseline", old, more).exit_code,
        few.exit_code,
    ) == (0, 1, 3)
    assert few.stdout.splitlines()[-1].startswith("UNDECIDED: vgg16@synthfaces+same")
    assert call("--baseline", tmp_path / "nothing.json", same).exit_code == 2


def test_the_command_writes_json_junit_and_markdown(old, tmp_path):
    new = finished(tmp_path, 0.8, tag="+new")
    json_file, junit, summary = (tmp_path / "out" / name for name in ("gate.json", "gate.xml", "gate.md"))
    arguments = ["--baseline", old, new, "--json", json_file, "--junit", junit, "--markdown", summary]
    assert call(*arguments).exit_code == 1
    content = json.loads(json_file.read_text())
    assert (content["schema"], content["verdict"], content["exit_code"]) == (1, "fail", 1)
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert suite.find("testcase/failure").get("message").startswith("FAIL ppa")
    assert call(*arguments).exit_code == 1
    assert summary.read_text().count("### Privacy gate: FAIL") == 2  # a summary is shared: it is appended to
    printed = call("--baseline", old, new, "--json")
    assert json.loads(printed.stdout) == content


def test_a_report_that_cannot_be_written_is_refused_first(old, tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("in the way")
        blocked = tmp_path / "file" / "gate.json"
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        blocked = tmp_path / "locked" / "gate.json"
    result = call("--baseline", old, "--target", "vgg16", "--json", blocked, "--output", tmp_path / "runs")
    assert result.exit_code == 2
    assert not (tmp_path / "runs").exists()


HOSTILE = "x<script>alert(1)</script>|=1+1\u202e\x1b[31m`@team`"


def test_names_are_inert_in_every_format(old, tmp_path):
    new = finished(tmp_path, 0.8, tag="+new")
    for run in (new, tmp_path / "floor+new"):
        edit(run, "run.json", lambda record: record["spec"]["target"].update(card=f"vgg16@synthfaces+{HOSTILE}"))
    result = gate(new, old)
    assert "\u202e" not in result.render("text") + result.render("markdown") + result.render("junit")
    assert "\x1b" not in result.render("text") + result.render("markdown") + result.render("junit")
    assert "<script>" not in result.render("markdown") + result.render("junit")
    assert "@team" not in result.render("markdown")
    ElementTree.fromstring(result.render("junit"))
    json.loads(result.render("json"))


@pytest.mark.parametrize("text", ["five", "acc1=", "=", "acc1=5x"])
def test_an_increase_that_is_no_number_is_refused(old, text):
    result = call("--baseline", old, old, "--max-increase", text)
    assert result.exit_code == 2
    assert "is no number" in result.stderr


def test_a_target_and_runs_at_once_are_refused(old):
    for arguments in ((), (old, "--target", "vgg16")):
        result = call("--baseline", old, *arguments)
        assert result.exit_code == 2
        assert "finished runs or a target" in result.stderr


def test_what_only_makes_a_baseline_is_refused_when_comparing(old):
    for option in (("--protocol", "demo"), ("--dataset", "celeba"), ("--seed", "1")):
        result = call("--baseline", old, old, *option)
        assert result.exit_code == 2
        assert "belongs to --update-baseline" in result.stderr


@pytest.mark.slow
def test_a_target_is_attacked_as_its_baseline_was(tmp_path):
    """End to end: a baseline, and a gate that runs what is missing; the second gate runs nothing."""
    import mibench

    arguments = {"out": tmp_path / "runs", "device": "cpu"}
    file = mibench.update_baseline(tmp_path / "leak.json", "vgg16", attacks=["ppa"], protocol="smoke", **arguments)
    result = mibench.gate(baseline=file, target="vgg16", **arguments)
    assert result.verdict == "undecided"  # three people show nothing
    assert result.tests[0].increase == 0.0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert len(before) >= 2
    assert mibench.gate(baseline=file, target="vgg16", **arguments).as_plain() == result.as_plain()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")} == before
