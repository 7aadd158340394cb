"""Comparison of runs: pairing, families of tests, references."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from comparable_runs import make, refusal

from mibench.metrics import estimates
from mibench.reports.compare import compare
from mibench.results import open_run


def test_every_pair_and_metric_is_one_family(compared):
    assert compared.family == len(compared.differences) == 2 * 3 * len(compared.tested)
    adjusted = estimates.holm_adjust([each.p_value for each in compared.differences])
    assert [each.p_holm for each in compared.differences] == pytest.approx(adjusted)
    ordered = sorted(compared.differences, key=lambda each: each.p_value)
    assert all(one.p_holm <= other.p_holm for one, other in itertools.pairwise(ordered))
    assert all(each.p_holm >= each.p_value for each in compared.differences)


def test_a_difference_is_paired_over_the_means_of_seeds(compared, suite):
    each = next(
        d for d in compared.differences if (d.target, d.metric, d.second) == ("vgg16@synthfaces", "acc1", "ppa")
    )
    means = [
        np.mean(
            [
                open_run(suite / f"{attack}-vgg16-{seed}").samples.groupby("identity")["hit1"].mean().to_numpy()
                for seed in range(3)
            ],
            axis=0,
        )
        for attack in ("dmmia", "ppa")
    ]
    samples = 3.0 * open_run(suite / "ppa-vgg16-0").samples["selected"].sum()
    expected = estimates.compared("acc1", *means, trials=(samples, samples))
    assert each.estimate.value == pytest.approx(expected.value)
    assert (each.estimate.low, each.estimate.high) == pytest.approx((expected.low, expected.high))
    assert each.p_value == expected.params["p_value"]
    assert each.detectable == pytest.approx(estimates.detectable_difference(means[0] - means[1]))


def test_differences_turn_round(suite):
    one = compare([suite / "dmmia-vgg16-0", suite / "ppa-vgg16-0"], reference="ppa")
    other = compare([suite / "dmmia-vgg16-0", suite / "ppa-vgg16-0"], reference="dmmia")
    pairs = {(d.first, d.second, d.metric): d for d in other.differences}
    turned = [d for d in one.differences if d.first == "dmmia"]
    assert len(turned) == 5
    for each in turned:
        back = pairs[each.second, each.first, each.metric]
        assert each.estimate.value == pytest.approx(-back.estimate.value)
        assert (each.estimate.low, each.estimate.high) == pytest.approx((-back.estimate.high, -back.estimate.low))
        assert (each.p_value, each.stronger) == (back.p_value, back.stronger)
        assert each.detectable == pytest.approx(back.detectable)


def test_runs_that_are_the_same_do_not_differ(tmp_path):
    for folder in ("a", "b"):
        make(tmp_path / folder / "run", "dmmia", 0.5)
    found = compare(tmp_path)
    assert len(found.differences) == len(found.tested)
    for each in found.differences:
        assert each.estimate.value == 0
        assert each.estimate.low <= 0 <= each.estimate.high
        assert (each.p_value, each.p_holm, each.stronger, each.detectable) == (1, 1, None, None)


def test_the_stronger_row_follows_the_direction_of_the_metric(compared):
    against_floor = [each for each in compared.differences if each.second == "floor (no attack)"]
    assert {each.stronger for each in against_floor} == {"dmmia", "ppa"}
    accuracy, distance = (
        next(each for each in against_floor if each.metric == name) for name in ("acc1", "knn_distance")
    )
    assert accuracy.estimate.value > 0 > distance.estimate.value
    assert accuracy.stronger == accuracy.first
    assert distance.stronger == distance.first


def test_only_a_row_that_beats_every_other_stands_out(tmp_path):
    runs = [make(tmp_path / name, name, level, people=24) for name, level in (("a", 0.95), ("b", 0.4), ("c", 0.1))]
    clear = compare(runs, metrics=["acc1"])
    assert [clear.stands_out(row, "acc1") for row in clear.rows] == [True, False, False]
    assert not clear.stands_out(clear.rows[0], "coverage")  # never tested
    assert re.search(r"a +\| \*\*\d", clear.render("markdown"))
    assert clear.render("latex").count("\\textbf{") == 1
    runs.append(make(tmp_path / "d", "d", 0.94, people=24))
    close = compare(runs, metrics=["acc1"])
    assert not any(close.stands_out(row, "acc1") for row in close.rows)
    assert "\\textbf" not in close.render("latex")
    against = compare(runs[:3], reference="b", metrics=["acc1"])
    assert not any(against.stands_out(row, "acc1") for row in against.rows)  # a was not tested against c


def test_a_reference_makes_the_family_smaller(suite):
    found = compare(suite, reference="ppa", metrics=["acc1", "knn_distance"])
    assert found.family == 2 * 2 * 2
    assert {each.second for each in found.differences} == {"ppa"}
    floors = compare(suite, reference="floor", metrics=["acc1"])
    assert [(each.first, each.second) for each in floors.differences] == [
        ("dmmia", "floor (no attack)"),
        ("ppa", "floor (no attack)"),
    ] * 2
    assert "no row is called 'pppa'; did you mean 'ppa'?" in refusal(suite, reference="pppa")
    assert "'acc11' cannot be tested over identities; did you mean 'acc1'?" in refusal(suite, metrics=["acc11"])
    assert "'coverage' cannot be tested" in refusal(suite, metrics=["coverage"])


def test_an_attack_s_name_as_reference_means_the_row_that_nobody_changed(tmp_path):
    for number, changed in enumerate((True, False, True)):
        run = make(tmp_path / f"dmmia-{number}", "dmmia", 0.7, settings={"lambda_idr": number})
        origin = "--set" if changed else "preset recommended"
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        record["settings"] = {"attack.lambda_idr": {"value": number, "origin": origin, "by_user": changed}}
        (run / "run.json").write_text(json.dumps(record))
    found = compare(tmp_path, reference="dmmia", metrics=["acc1"])
    assert {each.second for each in found.differences} == {"dmmia (lambda_idr=1)"}
    assert {each.first for each in found.differences} == {"dmmia (lambda_idr=0)", "dmmia (lambda_idr=2)"}
    assert compare(tmp_path, reference="dmmia (lambda_idr=2)", metrics=["acc1"]).family == 2


def test_floors_of_one_prior_are_told_apart_by_its_settings(tmp_path):
    weights = {"card": "stylegan2@synthfaces", "architecture": "stylegan2", "sha256": "s", "arguments": {"z_dim": 8}}
    changed = weights | {"arguments": {"z_dim": 8, "truncation": 1.0}}
    for name, each in (("plain", weights), ("changed", changed)):
        prior = make(tmp_path / name, "floor", 0.1)
        record = json.loads((prior / "run.json").read_text(encoding="utf-8"))
        record["spec"]["prior"] = each
        (prior / "run.json").write_text(json.dumps(record))
    make(tmp_path / "gmi", "floor", 0.1, prior="gmi")
    assert {row.label for row in compare(tmp_path).rows} == {
        "floor (prior stylegan2)",
        "floor (prior stylegan2, truncation=1.0)",
        "floor (prior gmi)",
    }


def test_rows_with_different_seeds_get_a_note(tmp_path):
    runs = [make(tmp_path / f"{attack}-{seed}", attack, 0.5, seed=seed) for attack, seed in (("ppa", 0), ("dmmia", 1))]
    assert "rows have different seeds" in compare(runs).notes
    assert not [note for note in compare([runs[0], make(tmp_path / "same", "dmmia", 0.6)]).notes if "seed" in note]


def test_each_row_is_tested_against_its_own_floor(tmp_path):
    make(tmp_path / "floor-s", "floor", 0.1)
    make(tmp_path / "floor-g", "floor", 0.05, prior="gmi")
    make(tmp_path / "dmmia", "dmmia", 0.7, floor="floor-s")
    make(tmp_path / "gmi", "gmi", 0.3, prior="gmi", floor="floor-g")
    make(tmp_path / "kedmi", "kedmi", 0.4, prior="kedmi")
    found = compare(tmp_path, reference="floor", metrics=["acc1"])
    assert {(each.first, each.second) for each in found.differences} == {
        ("dmmia", "floor (prior stylegan2)"),
        ("gmi", "floor (prior gmi)"),
    }
    assert "the floor of kedmi is not among the runs" in found.render("text")
    assert "means several rows" in refusal(
        tmp_path, make(tmp_path / "more", "gmi", 0.3, prior="gmi", settings={"steps": 9}), reference="gmi"
    )


def test_many_rows_are_tested_against_the_first(tmp_path):
    runs = [make(tmp_path / str(steps), "dmmia", 0.5, settings={"steps": steps}) for steps in range(1, 8)]
    found = compare(runs, metrics=["acc1"])
    assert found.family == 6
    assert {each.second for each in found.differences} == {"dmmia (steps=1)"}
    assert "each is tested against the first one only" in found.render("text")


def test_too_few_identities_for_the_family_of_tests_get_a_note(tmp_path):
    runs = [make(tmp_path / name, name, level, people=6) for name, level in (("a", 0.9), ("b", 0.1))]
    assert "with 6 identities no p value is below 0.031, so among 5 tests none can reach 0.05" in compare(runs).notes[0]
    assert not compare(runs, metrics=["acc1"]).notes


def test_a_metric_without_values_is_not_tested_and_says_why(tmp_path):
    runs = [make(tmp_path / name, name, level, truth=False) for name, level in (("a", 0.9), ("b", 0.1))]
    found = compare(runs)
    assert found.family == len(found.tested) - 1
    assert "true_identity_error" not in found.metrics
    text = found.render("text")
    assert "– true identity error, true identity ranked first: nobody knows the truth." in text
    assert [each.estimate.reason for each in found.differences if each.estimate.value is None] == [
        "nobody knows the truth"
    ]


def test_a_single_run_has_its_row_and_nothing_to_test(tmp_path):
    found = compare(make(tmp_path / "a", "dmmia", 0.5))
    assert len(found.rows) == 1
    assert found.family == 0
    assert "there is nothing to test it against" in found.render("text")
