"""Comparison of runs: which runs become one row, and what the row says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from comparable_runs import PEOPLE, edit, make, refusal

from mibench.reports.compare import compare
from mibench.results import open_run


def test_seeds_are_one_row_and_their_mean(compared, suite):
    assert compared.targets == ("ir152@synthfaces", "vgg16@synthfaces")
    assert [row.label for row in compared.rows] == ["dmmia", "ppa", "floor (no attack)"] * 2
    for row in compared.rows:
        assert row.seeds == (0, 1, 2)
        assert row.identities == PEOPLE
        single = [open_run(path) for path in row.runs]
        for name in ("acc1", "knn_distance", "true_identity_top1", "frechet_judge"):
            values = [run.metrics[name].value for run in single]
            assert row.by_seed[name] == tuple(values)
            assert row.estimates[name].value == pytest.approx(np.mean(values))
        assert row.estimates["acc1"].n == PEOPLE  # identities, not identities times seeds
        assert row.estimates["acc1"].low < row.estimates["acc1"].value < row.estimates["acc1"].high
        assert row.estimates["frechet_judge"].low is None
        assert "no value for each identity" in row.estimates["frechet_judge"].params["interval"]


def test_a_single_seed_keeps_the_intervals_of_its_run(suite):
    found = compare([suite / "dmmia-vgg16-0"], metrics=["acc1"])
    assert [row.label for row in found.rows] == ["dmmia", "floor (no attack)"]  # its floor lies beside it
    metrics = open_run(suite / "dmmia-vgg16-0").metrics
    for name, each in found.rows[0].estimates.items():
        assert each == metrics[name]


def test_costs_are_per_identity_and_apart(compared):
    cost = compared.rows[0].cost
    assert cost["prepare_queries_forward"] == 160 / PEOPLE
    assert cost["attack_queries_forward"] == 3200 / PEOPLE
    assert cost["attack_queries_backward"] == 1600 / PEOPLE
    assert (cost["prepare_seconds"], cost["attack_seconds"]) == (8 / PEOPLE, 16 / PEOPLE)
    assert cost["peak_memory_bytes"] == 1_001_600
    assert cost["prior_queries_forward"] == 0


def test_labels_say_only_what_differs(tmp_path):
    runs = [
        make(tmp_path / "a", "dmmia", 0.5, settings={"lambda_imr": 1.0}),
        make(tmp_path / "b", "dmmia", 0.5, settings={"lambda_imr": 0}),
        make(tmp_path / "c", "gmi", 0.2, prior="gmi"),
        make(tmp_path / "d", "floor", 0.1, prior="gmi"),
        make(tmp_path / "e", "floor", 0.1),
    ]
    found = compare(runs)
    assert [row.label for row in found.rows] == [
        "dmmia (lambda_imr=1.0)",
        "dmmia (lambda_imr=0)",
        "gmi",
        "floor (prior gmi)",
        "floor (prior stylegan2)",
    ]
    many = {f"setting{number}": 1 for number in range(5)}
    presets = [
        make(tmp_path / "f", "ppa", 0.5, settings=many, preset="paper"),
        make(tmp_path / "g", "ppa", 0.5, preset="recommended"),
    ]
    assert [row.label for row in compare(presets).rows] == ["ppa (preset paper)", "ppa (preset recommended)"]


def test_many_rows_of_one_attack_say_what_is_unlike_the_others(tmp_path):
    base = {"a": 1, "b": 1, "c": 1, "d": 1}
    runs = [make(tmp_path / "base", "dmmia", 0.5, settings=base)]
    runs += [make(tmp_path / name, "dmmia", 0.5, settings={**base, name: 0}) for name in base]
    runs.append(make(tmp_path / "all", "dmmia", 0.5, settings=dict.fromkeys(base, 2)))
    labels = [row.label for row in compare(runs, metrics=["acc1"]).rows]
    assert labels[:5] == ["dmmia", "dmmia (a=0)", "dmmia (b=0)", "dmmia (c=0)", "dmmia (d=0)"]
    assert re.fullmatch(r"dmmia \(settings [0-9a-f]{6}\)", labels[5])


def test_a_prior_made_against_its_target_is_one_name_on_all_targets(tmp_path):
    for target in ("vgg16", "ir152"):
        prior = {"card": f"kedmi@synthfaces+{target}", "architecture": "kedmi", "sha256": target}
        make(tmp_path / f"kedmi-{target}", "kedmi", 0.4, target=target, prior=prior["architecture"])
        edit(tmp_path / f"kedmi-{target}", "run.json", lambda content, prior=prior: content["spec"].update(prior=prior))
    found = compare(tmp_path)
    assert {(row.label, row.prior) for row in found.rows} == {("kedmi", "kedmi")}


def test_the_same_seed_again_is_another_row_or_refused(tmp_path):
    for folder in ("before", "after"):
        for seed in (0, 1):
            make(tmp_path / folder / f"dmmia-{seed}", "dmmia", 0.5, seed=seed)
    found = compare(tmp_path)
    assert [row.label for row in found.rows] == ["dmmia · after", "dmmia · before"]
    assert all(row.seeds == (0, 1) for row in found.rows)
    make(tmp_path / "after" / "again", "dmmia", 0.5, seed=1)
    assert "are the same attack with the same seed" in refusal(tmp_path)


def test_the_order_of_runs_does_not_change_a_row(suite, compared):
    backwards = compare(sorted(suite.iterdir(), reverse=True))
    rows = {(row.target, row.label): row for row in backwards.rows}
    assert all(rows[row.target, row.label] == row for row in compared.rows)
