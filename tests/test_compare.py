"""Comparison of runs: pooling, pairing, families, refusals, and that every format says the same."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from mibench.api import Estimate, MibenchError
from mibench.cli import cli
from mibench.metrics import estimates
from mibench.metrics.scoring import estimate_as_json
from mibench.reports.compare import PrintedComparison, compare
from mibench.reports.latex import escape
from mibench.results import open_run

PEOPLE, SAMPLES = 16, 4


def make(
    folder: Path,
    attack: str,
    level: float,
    *,
    target: str = "vgg16",
    seed: int = 0,
    prior: str = "stylegan2",
    people: int = PEOPLE,
    first: int = 0,
    floor: str | None = None,
    settings: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
    truth: bool = True,
    **spec: Any,
) -> Path:
    """A finished run whose success rises with ``level``; identities are equally hard for every attack."""
    from safetensors.torch import save_file

    (folder / "units").mkdir(parents=True)
    generator = np.random.default_rng([seed, len(attack), len(target), int(1000 * level)])
    hardness = np.random.default_rng(1).normal(size=people)
    identity = np.repeat(np.arange(first, first + people), SAMPLES)
    known = 1 / (1 + np.exp(2 - 5 * level - hardness[identity - first]))
    table = pd.DataFrame({"identity": identity, "sample": np.tile(np.arange(SAMPLES), people), "selected": True})
    table["hit1"] = generator.random(len(identity)) < known
    table["hit5"] = table["hit1"] | (generator.random(len(identity)) < known)
    table["knn_distance"] = 200 - 100 * known + 5 * generator.normal(size=len(identity))
    table["feature_distance"] = table["knn_distance"] / 300
    table["true_identity_error"] = 0.5 - 0.3 * known if truth else float("nan")
    table["true_identity_rank"] = np.where(generator.random(len(identity)) < known, 1.0, 9.0) if truth else float("nan")
    table.to_csv(folder / "samples.csv", index=False)

    def mean(name: str, values: pd.Series, better: bool) -> Estimate:
        shares = name.startswith("acc") or name.endswith("top1")
        return estimates.mean(
            name, values.astype(float), identity, proportion=shares, higher_is_better=better, extractor="judge"
        )

    found = {
        "acc1": mean("acc1", table["hit1"], True),
        "acc5": mean("acc5", table["hit5"], True),
        "knn_distance": mean("knn_distance", table["knn_distance"], False),
        "feature_distance": mean("feature_distance", table["feature_distance"], False),
        "true_identity_error": mean("true_identity_error", table["true_identity_error"], False),
        "true_identity_top1": mean("true_identity_top1", table["true_identity_rank"] == 1, True),
        "coverage": Estimate("coverage", level / 2, level / 3, level, n=people, higher_is_better=True),
        "frechet_judge": Estimate("frechet_judge", 90 - seed, 80, 99, n=people, higher_is_better=False),
    }
    if not truth:
        for name in ("true_identity_error", "true_identity_top1"):
            found[name] = replace(found[name], value=None, low=None, high=None, reason="nobody knows the truth")
    (folder / "metrics.json").write_text(json.dumps({name: estimate_as_json(each) for name, each in found.items()}))
    specification = {
        "attack": attack,
        "attack_settings": {"steps": 3, **(settings or {})},
        "dataset": "synthfaces",
        "dataset_digest": "d1",
        "target": {"card": f"{target}@synthfaces", "architecture": target, "sha256": f"sha of {target}"},
        "judge": {"card": "facenet112@synthfaces", "sha256": "sha of the judge"},
        "prior": {"card": f"{prior}@synthfaces", "architecture": prior, "sha256": f"sha of {prior}"},
        "protocol": {"name": "toy", "version": 1, "samples": SAMPLES, "identities": people, **(protocol or {})},
        "seed": seed,
        "precision": "float32",
        **spec,
    }
    record = {"status": "complete", "spec": specification, "floor": floor, "prior_queries_forward": 0}
    (folder / "run.json").write_text(json.dumps(record))
    for stem, forward, backward in (("state", 160, 0), ("units/000", 1600, 800), ("units/001", 1600, 800)):
        queries = {"queries_forward": forward, "queries_backward": backward}
        save_file({"x": torch.zeros(1)}, folder / f"{stem}.safetensors", metadata={"mibench": json.dumps(queries)})
        cost = {"seconds": 8.0, "peak_memory_bytes": 1_000_000 + forward}
        (folder / f"{stem}.json").write_text(json.dumps(cost))
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two attacks and their floor on two targets, three seeds of each."""
    folder = tmp_path_factory.mktemp("suite")
    for target in ("vgg16", "ir152"):
        for seed in range(3):
            make(folder / f"floor-{target}-{seed}", "floor", 0.05, target=target, seed=seed)
            for attack, level in (("dmmia", 0.7), ("ppa", 0.6)):
                name = f"{attack}-{target}-{seed}"
                make(folder / name, attack, level, target=target, seed=seed, floor=f"floor-{target}-{seed}")
    return folder


@pytest.fixture(scope="module")
def compared(suite: Path) -> PrintedComparison:
    return compare(suite)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *(str(argument) for argument in arguments)])


def refusal(*runs: Path, **options: Any) -> str:
    with pytest.raises(MibenchError) as caught:
        compare(list(runs), **options)
    return str(caught.value)


def edit(run: Path, file: str, change: Any) -> None:
    content = json.loads((run / file).read_text(encoding="utf-8"))
    change(content)
    (run / file).write_text(json.dumps(content))


# ---------------------------------------------------------------- rows


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


# ---------------------------------------------------------------- differences


def test_every_pair_and_metric_is_one_family(compared):
    assert compared.family == len(compared.differences) == 2 * 3 * len(compared.tested)
    adjusted = estimates.holm([each.p_value for each in compared.differences])
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


def test_other_seeds_in_another_row_are_said(tmp_path):
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


def test_too_few_identities_for_the_family_are_told(tmp_path):
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


# ---------------------------------------------------------------- refusals


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


def test_what_changes_no_number_is_not_refused(tmp_path):
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


# ---------------------------------------------------------------- formats


def test_csv_has_full_precision(compared):
    rows = read(compared.render("csv"))
    assert len(rows) == len(compared.rows)
    for line, row in zip(rows, compared.rows, strict=True):
        for name in compared.metrics:
            each = row.estimates[name]
            assert float(line[name]) == each.value
            assert line[f"{name}_low"] == ("" if each.low is None else repr(each.low))
        assert float(line["acc1_seed_low"]) == min(row.by_seed["acc1"])
        assert float(line["acc1_seed_sd"]) == pytest.approx(np.std(row.by_seed["acc1"], ddof=1))
        assert float(line["attack_seconds"]) == row.cost["attack_seconds"]
        assert line["floor"] == str(row.floor).lower()


def test_files_hold_the_same_numbers_and_repeat(compared, suite, tmp_path):
    files = compared.write(tmp_path / "a")
    assert sorted(file.name for file in files) == sorted(
        [f"{name}.{ending}" for name in ("comparison", "differences") for ending in ("csv", "md", "tex")]
        + ["comparison.png", "comparison.svg"]
    )
    again = compare(suite).write(tmp_path / "b")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    lines = read((tmp_path / "a" / "differences.csv").read_text(encoding="utf-8"))
    assert len(lines) == len(compared.differences)
    for line, each in zip(lines, compared.differences, strict=True):
        assert (line["first"], line["second"], line["metric"]) == (each.first, each.second, each.metric)
        assert float(line["difference"]) == each.estimate.value
        assert float(line["p_holm"]) == each.p_holm
        assert float(line["detectable"]) == each.detectable
        assert int(line["family"]) == compared.family
    markdown = (tmp_path / "a" / "comparison.md").read_text(encoding="utf-8")
    latex = (tmp_path / "a" / "comparison.tex").read_text(encoding="utf-8")
    for row in compared.rows:
        each = row.estimates["acc1"]
        interval = f"[{100 * each.low:.1f}, {100 * each.high:.1f}]"
        assert f"{100 * each.value:.1f} {interval}" in markdown.replace("*", "")
        assert re.search(rf"{100 * each.value:.1f}}}? {{\\tiny {re.escape(interval)}}}", latex)
    assert "acc@1 by target" in markdown
    differences = (tmp_path / "a" / "differences.md").read_text(encoding="utf-8")
    assert f"adjusted by Holm for all {compared.family} tests shown" in differences


def test_latex_is_well_formed_and_escaped(tmp_path):
    runs = [
        make(tmp_path / "a", "my_attack&50%", 0.5, settings={"loss": "a#b$c{d}~e^f\\g"}),
        make(tmp_path / "b", "my_attack&50%", 0.4, settings={"loss": "x"}),
    ]
    text = compare(runs).render("latex")
    assert r"my\_attack\&50\% (loss=a\#b\$c\{d\}\textasciitilde{}e\textasciicircum{}f\textbackslash{}g)" in text
    assert "$\\uparrow$" in text
    assert "$\\downarrow$" in text
    assert not re.search("[↑↓−÷·–“”]", text)
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    for name in ("table", "table*", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}")
    for rule in ("toprule", "midrule", "bottomrule", "caption{", "label{"):
        assert text.count(f"\\{rule}") == text.count("\\begin{tabular}")
    for layout, body in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 2
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(layout) - 1
    assert escape("a<b") == "a$<$b"


def test_minus_signs_are_minus_signs_in_latex(tmp_path):
    runs = [make(tmp_path / "a", "weak", 0.1), make(tmp_path / "b", "strong", 0.9)]
    text = compare(runs, metrics=["acc1"]).render("latex")
    assert re.search(r"\$-\$\d+\.\d points \{\\tiny \[\$-\$", text)


def test_text_is_cut_at_the_width_and_loses_nothing(compared):
    narrow, wide = compared.render("text", width=80), compared.render("text", width=400)
    assert "(continued)" in narrow
    assert "(continued)" not in wide
    assert max(len(line) for line in narrow.splitlines() if line.startswith("|")) <= 95
    for row in compared.rows:
        value = f"{100 * row.estimates['acc1'].value:.1f}"
        assert value in narrow
        assert value in wide


# ---------------------------------------------------------------- command line


def test_the_command_prints_every_format(suite, tmp_path):
    runs = [suite / "dmmia-vgg16-0", suite / "ppa-vgg16-0"]
    plain = call(*runs)
    assert plain.exit_code == 0, plain.output
    assert "## Target vgg16@synthfaces" in plain.stdout
    assert "adjusted by Holm for all 15 tests shown" in plain.stdout
    assert len(read(call(*runs, "--format", "csv").stdout)) == 3
    assert call(*runs, "--format", "markdown").stdout.startswith("## ")
    assert "\\toprule" in call(*runs, "--format", "latex").stdout
    found = json.loads(call(*runs, "--json", "--output", tmp_path / "out").stdout)
    assert found["family"] == 15
    assert [row["label"] for row in found["rows"]] == ["dmmia", "ppa", "floor (no attack)"]
    assert found["differences"][0]["estimate"]["params"]["detectable"] > 0
    assert len(found["files"]) == 8
    assert all(Path(file).is_file() for file in found["files"])
    assert "did you mean 'dmmia'" in call(*runs, "--reference", "dmia").stderr


def test_the_figure_shows_every_row_once(compared):
    from mibench.reports.figures.comparison import comparison_plot

    figure = comparison_plot(compared)
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted([row.label for row in compared.rows] + list(compared.targets))
    assert len(figure.axes) == 3
    heights = sorted(tick for tick in figure.axes[0].get_yticks())
    assert min(np.diff(heights)) >= 0.99  # no label on another
