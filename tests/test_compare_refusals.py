"""Comparison of runs: what must not be compared is refused."""

from __future__ import annotations

import re

import pytest
from comparable_runs import call, edit, make, refusal

from mibench.reports.compare import compare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": {"version": 2}}, r"differ in protocol: toy v1: \S+; toy v2: \S+"),
        ({"protocol": {"name": "toy (changed)"}}, r"differ in protocol: toy v1: \S+; toy \(changed\) v1: \S+"),
        ({"protocol": {"queries": 5}}, r"differ in protocol.queries: null: \S+; 5: \S+"),
        ({"dataset": "celeba", "truth": False}, r"differ in data set: synthfaces \(d1\): \S+; celeba \(d1\): \S+"),
        ({"dataset_digest": "d2"}, r"differ in data set: synthfaces \(d1\): \S+; synthfaces \(d2\): \S+"),
        ({"judge": {"card": "other@synthfaces"}}, "differ in judge: facenet112@synthfaces .*; other@synthfaces: "),
        ({"first": 100}, r"differ in identities: 16 from 0 to 15 .*; 16 from 100 to 115 "),
    ],
)
def test_what_must_not_be_compared_is_refused_in_one_line(tmp_path, change, message):
    runs = [make(tmp_path / "a", "dmmia", 0.5), make(tmp_path / "b", "ppa", 0.5, **change)]
    said = refusal(*runs)
    assert re.search(message, said), said
    assert "--mix" in said
    assert "\n" not in said
    done = call(*runs)
    assert done.exit_code == 2
    assert done.stderr == f"error: {said}\n"
    mixed = compare(runs, mix=True)
    assert mixed.family == 0
    assert mixed.differences
    assert all("differ" in each.estimate.reason for each in mixed.differences)
    for kind in ("text", "markdown", "latex"):
        assert "WARNING: these rows do not share their" in mixed.render(kind)


def test_mixed_rows_of_one_attack_say_what_differs(tmp_path):
    runs = [make(tmp_path / "a", "dmmia", 0.5), make(tmp_path / "b", "dmmia", 0.5, protocol={"first_identity": 9})]
    labels = [row.label for row in compare(runs, mix=True).rows]
    assert labels == ["dmmia (protocol.first_identity=null)", "dmmia (protocol.first_identity=9)"]
    newer = make(tmp_path / "c", "dmmia", 0.5, protocol={"version": 2})
    assert [row.label for row in compare([runs[0], newer], mix=True).rows] == ["dmmia (toy v1)", "dmmia (toy v2)"]


def test_metrics_of_another_definition_are_refused(tmp_path):
    runs = [make(tmp_path / "a", "dmmia", 0.5), make(tmp_path / "b", "ppa", 0.5)]
    edit(runs[1], "metrics.json", lambda content: content["knn_distance"].update(version="2"))
    assert "differ in definition of knn_distance: version 1, judge: " in refusal(*runs)


def test_protocols_that_differ_in_text_only_compare(tmp_path):
    runs = [
        make(tmp_path / "a", "dmmia", 0.5, protocol={"description": "x", "required": ["acc1"]}),
        make(tmp_path / "b", "ppa", 0.5, protocol={"description": "y", "required": []}),
    ]
    assert compare(runs).mixed == ()


def test_unfinished_runs_are_named(tmp_path):
    good = make(tmp_path / "good", "dmmia", 0.5, floor="floor")
    running, failed, unscored, broken = (make(tmp_path / name, name, 0.5) for name in ("run", "fail", "raw", "torn"))
    edit(running, "run.json", lambda content: content.update(status="running"))
    edit(failed, "run.json", lambda content: content.update(status="failed", error="OSError: full\nmore"))
    (unscored / "samples.csv").unlink()
    (broken / "run.json").write_text("{")
    said = refusal(running, failed, unscored, broken, tmp_path / "nowhere").splitlines()
    assert len(said) == 5
    for line, words in zip(
        said,
        (
            "run is not finished (status running); continue it with the same command",
            "fail failed (OSError: full); remove the cause and give the same command again",
            "raw is not scored: it has no samples.csv; score it with mibench score",
            "torn cannot be read: ",
            "nowhere is neither a run directory nor a folder of them",
        ),
        strict=True,
    ):
        assert words in line
    found = compare(tmp_path)
    assert [row.label for row in found.rows] == ["dmmia"]
    assert len(found.left_out) == 5  # four runs, and the floor that is not there
    assert "Left out: the floor of" in found.render("text")
    done = call(tmp_path / "run", tmp_path / "fail")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 2
    (good / "run.json").unlink()
    assert "there is no finished run to compare" in refusal(tmp_path)
