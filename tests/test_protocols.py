"""Protocols for real data: which one a data set has, what each fixes, and that old runs keep their names."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toyworld.data import ToyFaces

import mibench
from mibench import registry
from mibench import settings as config
from mibench.api import MibenchError, Reconstruction
from mibench.data.split import GroundTruth
from mibench.metrics import DEFAULT_METRICS
from mibench.results import open_run
from mibench.runs.attack import keep_most_confident
from mibench.runs.plan import Plan, make_plan
from mibench.runs.protocol import choose_preset, load_protocol, protocol_files
from mibench.runs.request import RunRequest
from mibench.runs.spec import EvalProtocol
from mibench.settings import Layer, Setting

TOY = {"target": "toynet", "dataset": "toyfaces", "attack": "toyattack"}
GROUP_OF = {
    "acc1": "accuracy",
    "acc5": "accuracy",
    "knn_distance": "knn-distance",
    "feature_distance": "feature-distance",
    **dict.fromkeys(("precision", "recall", "density", "coverage"), "prdc"),
}


def toy_plan(settings: Mapping[str, Any] | None = None, **names: Any) -> Plan:
    return make_plan(RunRequest(**{**TOY, **names}, settings={"protocol": dict(settings or {})}))


def test_no_metrics_are_the_default_ones(toy: Path, tmp_path: Path) -> None:
    """``[]`` asks for nothing in particular: a run without numbers is no result."""
    names = {**TOY, "protocol": "toy", "out": tmp_path, "device": "cpu"}
    run = mibench.run(**names, settings={"protocol.metrics": []})
    asked = mibench.run(**names, settings={"protocol.metrics": list(DEFAULT_METRICS)})
    assert {name: one.value for name, one in run.metrics.items()} == {
        name: one.value for name, one in asked.metrics.items()
    }
    assert {"acc1", "knn_distance", "feature_distance", "coverage"} <= set(run.metrics)


# ---------------------------------------------------------------- what each one fixes


@pytest.mark.parametrize(
    ("name", "identities", "samples", "judge", "resize", "prior"),
    [
        ("celeba", 300, 5, "facenet112", "low2high", "stylegan2"),
        ("gmi-100", 100, 1, "facenet112", "low2high", "stylegan2"),
        ("ppa", None, 50, "inception_v3", "antialias", "stylegan2@ffhq"),
        ("ppa-dogs", None, 50, "inception_v3", "antialias", "stylegan2@afhq"),
        ("dmmia-celeba", 10, 50, "inception_v3", "antialias", "stylegan2@ffhq"),
        ("dmmia-celeba-metfaces", 50, 50, "inception_v3", "antialias", "stylegan2@metfaces"),
    ],
)
def test_published_protocols_are_as_published(
    name: str, identities: int | None, samples: int, judge: str, resize: str, prior: str
) -> None:
    found, _ = load_protocol(name)
    assert (found.identities, found.first_identity, found.samples) == (identities, 0, samples)
    assert (found.judge, found.judge_resize, found.prior) == (judge, resize, prior)
    assert found.access == "gradients"
    assert found.query_budget is None


@pytest.mark.parametrize("name", [name for name in protocol_files() if load_protocol(name)[0].regressor is None])
def test_a_protocol_for_photographs_demands_no_truth_and_only_what_it_computes(name: str) -> None:
    found, _ = load_protocol(name)
    assert set(found.required) <= set(GROUP_OF)
    assert {GROUP_OF[estimate] for estimate in found.required} <= set(found.metrics)
    assert "true-identity" not in found.metrics
    assert set(found.metrics) <= set(registry.names("metric"))
    assert set(found.preset_for) <= set(registry.names("attack"))
    assert set(found.datasets) <= set(registry.names("dataset"))


def preset_of(attack: str, protocol: EvalProtocol) -> str:
    preset = choose_preset(attack, protocol, "celeba", None, config.attack_presets(attack))
    assert preset is not None
    return preset


def test_the_best_of_five_restarts_is_one_sample_of_gmi_100() -> None:
    """Released GMI reports the restart with the highest target logit, not the mean over restarts."""
    protocol, _ = load_protocol("gmi-100")
    kind = registry.load("attack", "gmi")
    attack, _ = config.resolve(kind, [config.attack_presets("gmi").presets[preset_of("gmi", protocol)]], scope="a")
    assert (attack.restarts, attack.best_of, attack.kept) == (5, 5, protocol.samples)
    protocol, _ = load_protocol("celeba")
    attack, _ = config.resolve(kind, [config.attack_presets("gmi").presets[preset_of("gmi", protocol)]], scope="a")
    assert (attack.restarts, attack.best_of, attack.kept) == (5, 1, protocol.samples)


def test_kedmi_attacks_five_batches_of_sixty_in_celeba() -> None:
    protocol, _ = load_protocol("celeba")
    layer = config.attack_presets("kedmi").presets[preset_of("kedmi", protocol)]
    attack, _ = config.resolve(registry.load("attack", "kedmi"), [layer], scope="attack")
    assert [len(unit) for unit in protocol.units(attack.unit_size)] == [60] * 5
    assert attack.draws == protocol.samples


@pytest.mark.parametrize(
    ("preset", "pool", "epochs", "rate", "scale", "batch"),
    [
        ("paper", 5000, 70, 0.005, (0.9, 1.0), 25),
        ("metfaces", 5000, 70, 0.005, (0.9, 1.0), 20),
        ("facescrub", 2000, 50, 0.005, (0.9, 1.0), 25),
        ("dogs", 2000, 100, 0.01, (0.75, 1.0), 25),
    ],
)
def test_presets_of_ppa_and_dmmia_are_the_published_table(
    preset: str, pool: int, epochs: int, rate: float, scale: tuple[float, float], batch: int
) -> None:
    def resolved(attack: str) -> Any:
        layer = config.attack_presets(attack).presets[preset]
        return config.resolve(registry.load("attack", attack), [layer], scope="attack")[0]

    ppa, dmmia, floor = resolved("ppa"), resolved("dmmia"), resolved("floor")
    assert (ppa.pool_size, ppa.candidates, ppa.epochs, ppa.batch_size) == (pool, 200, epochs, batch)
    assert (ppa.learning_rate, ppa.betas, ppa.truncation, ppa.milestones) == (rate, (0.1, 0.1), 0.5, ())
    assert (ppa.crop_scale, ppa.loss, ppa.selection_transforms) == (scale, "poincare", 100)
    assert (dmmia.pool_size, dmmia.candidates, dmmia.epochs, dmmia.batch_size) == (pool, 200, epochs, 8)
    assert (dmmia.optimise, dmmia.loss, dmmia.crop_scale) == ("mapping", "cross_entropy", scale)
    assert (dmmia.prototypes, dmmia.positives, dmmia.momentum, dmmia.prototype_rate) == (800, 400, 0.7, 1e-5)
    for shared in ("pool_size", "candidates", "truncation", "selection_transforms"):
        assert getattr(floor, shared) == getattr(ppa, shared) == getattr(dmmia, shared)


@pytest.mark.parametrize(
    ("dataset", "preset"),
    [("celeba", "paper"), ("celeba1000", "paper"), ("facescrub", "facescrub"), ("stanford_dogs", "dogs")],
)
def test_a_data_set_has_its_own_presets(dataset: str, preset: str) -> None:
    protocol = registry.load("dataset", dataset).protocol
    for attack in ("ppa", "dmmia", "floor"):
        found, _ = load_protocol(protocol)
        assert choose_preset(attack, found, dataset, None, config.attack_presets(attack)) == preset


def test_every_attack_protocol_and_data_set_has_the_preset_of_the_table() -> None:
    with (Path(__file__).parent / "data" / "chosen_presets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        attack, name = row.pop("attack"), row.pop("protocol")
        protocol, presets = load_protocol(name)[0], config.attack_presets(attack)
        chosen = {dataset: choose_preset(attack, protocol, dataset, None, presets) for dataset in row}
        assert chosen == row, f"{attack} under {name}"


# ---------------------------------------------------------------- which one a run uses


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_every_data_set_names_a_protocol_that_suits_it(name: str) -> None:
    kind = registry.load("dataset", name)
    protocol, _ = load_protocol(kind.protocol)
    if not issubclass(kind, GroundTruth):
        assert not any(estimate.startswith("true_identity") for estimate in protocol.required)


def test_the_expected_protocols() -> None:
    expected = {
        "synthfaces": "demo", "celeba": "celeba", "celeba1000": "ppa", "facescrub": "ppa",
        "stanford_dogs": "ppa-dogs", "folder": "audit",
    }  # fmt: skip
    assert {name: registry.load("dataset", name).protocol for name in expected} == expected


def test_without_a_protocol_the_data_sets_own_is_used_and_reported(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyFaces, "protocol", "toy")
    plan = toy_plan()
    assert plan.spec.protocol.name == "toy"
    assert plan.names.protocol == "toy"
    assert plan.origins["protocol.name"] == Setting("toy", "default of data set toyfaces")
    asked = toy_plan(protocol="toy")
    assert "protocol toy.yaml" in asked.origins["protocol.name"].origin
    assert asked.spec.digest() == plan.spec.digest()
    monkeypatch.setattr(ToyFaces, "protocol", "toyy")
    with pytest.raises(MibenchError, match="unknown protocol 'toyy'; did you mean 'toy'"):
        toy_plan()


def test_presets_of_a_protocol_go_first_on_the_data_it_is_defined_on(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = config.attack_presets("toyattack")
    aimed = dataclasses.replace(presets, dataset={"toyfaces": "paper"})
    monkeypatch.setattr(config, "attack_presets", lambda name: aimed if name == "toyattack" else presets)
    wanted = {"preset_for": {"toyattack": "slow"}}
    assert toy_plan(wanted, protocol="toy").spec.preset == "paper"
    assert toy_plan({**wanted, "datasets": ["toyfaces"]}, protocol="toy").spec.preset == "slow"
    assert toy_plan({**wanted, "datasets": ["toyfaces"]}, protocol="toy", preset="quick").spec.preset == "quick"


# ---------------------------------------------------------------- all classes


def test_all_classes_are_those_of_the_data_set(toy: Path, tmp_path: Path) -> None:
    plan = toy_plan({"identities": None}, protocol="toy")
    assert plan.spec.protocol.identities == 6
    assert [label for unit in plan.units for label in unit] == list(range(6))
    assert toy_plan({"identities": None, "at_most": 4}, protocol="toy").spec.protocol.labels == (0, 1, 2, 3)
    assert toy_plan({"identities": None, "first_identity": 4}, protocol="toy").spec.protocol.labels == (4, 5)
    saved = tmp_path / "config.yaml"
    saved.write_text(plan.config_yaml)
    assert make_plan(RunRequest(config=saved)).spec.digest() == plan.spec.digest()


def test_all_classes_of_a_protocol_are_recorded_as_a_number(toy: Path) -> None:
    judged = {"judge": "toyjudge", "prior": "toygan"}
    plan = toy_plan(judged, protocol="celeba-smoke")
    assert plan.spec.protocol.identities == 3
    assert plan.spec.protocol.at_most is None
    assert plan.origins["protocol.identities"] == Setting(3, "all of toyfaces that celeba-smoke (changed) v1 allows")
    assert "at_most" not in plan.spec.protocol.digest_fields()
    fewer = toy_plan({**judged, "identities": 2}, protocol="celeba-smoke")
    assert fewer.spec.protocol.identities == 2
    more = toy_plan({**judged, "identities": 5}, protocol="celeba-smoke")
    assert more.spec.protocol.identities == 5  # a person's own number is not limited by what "all" may mean


def test_a_number_of_classes_that_a_data_set_lacks_is_refused(toy: Path) -> None:
    with pytest.raises(MibenchError, match="attacks identities 0 to 299, toyfaces has 6"):
        toy_plan({"judge": "toyjudge", "prior": "toygan"}, protocol="celeba")
    with pytest.raises(MibenchError, match="attacks identities 6 to 6, toyfaces has 6"):
        toy_plan({"identities": None, "first_identity": 6}, protocol="toy")
    with pytest.raises(MibenchError, match="their number is not known yet"):
        _ = EvalProtocol(name="p", prior="toygan", judge="toyjudge", samples=1).labels


def test_a_budget_is_reckoned_with_the_resolved_number(toy: Path) -> None:
    all_of_them = toy_plan({"identities": None, "query_budget": 60}, protocol="toy")
    counted = toy_plan({"identities": 6, "query_budget": 60}, protocol="toy")
    assert all_of_them.attack == counted.attack


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"identities": 0}, "protocol.identities must be at least 1, or null for all, got 0"),
        ({"at_most": 0}, "protocol.at_most must be at least 1, or null for no limit, got 0"),
        ({"stored": 1}, r"protocol.stored must be at least 2 \(protocol.samples\), or null for all, got 1"),
        ({"judge_resize": "nearest"}, "protocol.judge_resize: .*'low2high', 'bilinear' or 'antialias'"),
    ],
)
def test_a_mistake_in_a_protocol_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message) as caught:
        load_protocol("smoke", [Layer("--set", settings)])
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- what is new leaves old runs alone


def test_fields_that_came_later_count_only_where_they_say_something() -> None:
    old, _ = load_protocol("standard")
    for name, value in (("judge_resize", "antialias"), ("stored", 16), ("at_most", 9), ("query_budget", 5)):
        assert name not in old.digest_fields()
        assert dataclasses.replace(old, **{name: value}).digest_fields() == {**old.digest_fields(), name: value}
    for name, value in (
        ("preset", "paper"),
        ("preset_for", {"gmi": "x"}),
        ("datasets", ("celeba",)),
        ("prior_settings", {"a@b": {"crop": 8}}),
        ("description", "x"),
        ("diagnostics", ("gradients",)),
    ):
        assert dataclasses.replace(old, **{name: value}).digest_fields() == old.digest_fields()


# ---------------------------------------------------------------- the judge's resize


@pytest.mark.parametrize("how", ["low2high", "bilinear", "antialias"])
def test_the_judge_sees_images_as_the_protocol_says(toy: Path, tmp_path: Path, how: str) -> None:
    run = mibench.run(**TOY, protocol="toy", settings={"protocol.judge_resize": how}, out=tmp_path, device="cpu")
    assert run.metrics["acc1"].extractor == f"toyjudge@toyfaces ({how} to 12)"
    assert open_run(run.path).record["spec"]["protocol"]["judge_resize"] == how


# ---------------------------------------------------------------- what is stored


def test_the_surest_of_each_identity_are_kept_in_their_order() -> None:
    confidence = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5, 0.2])
    labels = torch.tensor([1, 1, 1, 0, 0, 0])
    given = Reconstruction(torch.rand(6, 3, 4, 4), labels, confidence, torch.arange(6.0)[:, None])
    kept = keep_most_confident(given, 2)
    assert kept.labels.tolist() == [1, 1, 0, 0]
    assert kept.latents.flatten().tolist() == [1, 2, 3, 4]  # of equal ones the earlier
    assert torch.equal(kept.images, given.images[1:5])
    assert keep_most_confident(given, None) is given
    assert len(keep_most_confident(dataclasses.replace(given, latents=torch.empty(0)), 1).latents) == 0


def test_a_run_stores_no_more_than_the_protocol_says_and_selects_the_same(toy: Path, tmp_path: Path) -> None:
    whole = mibench.run(**TOY, protocol="toy", out=tmp_path / "whole", device="cpu")
    part = mibench.run(**TOY, protocol="toy", settings={"protocol.stored": 2}, out=tmp_path / "part", device="cpu")
    assert len(open_run(whole.path).samples) == 18
    assert len(open_run(part.path).samples) == 12
    for name in ("acc1", "knn_distance"):
        assert part.metrics[name].value == whole.metrics[name].value


# ---------------------------------------------------------------- settings of the prior


def test_a_protocol_gives_settings_to_the_prior_it_names(toy: Path) -> None:
    wanted = {"prior_settings": {"toygan@toyfaces": {"truncation": 0.5}, "toygan@elsewhere": {"truncation": 0.1}}}
    plan = toy_plan(wanted, protocol="toy")
    assert plan.spec.prior is not None
    assert plan.spec.prior.arguments == {"truncation": 0.5}
    assert plan.origins["prior.truncation"] == Setting(0.5, "protocol toy v3")
    said = make_plan(RunRequest(**TOY, protocol="toy", settings={"protocol": wanted, "prior": {"truncation": 0.9}}))
    assert said.spec.prior is not None
    assert said.spec.prior.arguments == {"truncation": 0.9}
    assert toy_plan(protocol="toy").spec.digest() != plan.spec.digest()


def test_the_crop_of_ppa_belongs_to_its_protocols() -> None:
    for name in ("ppa", "dmmia-celeba", "dmmia-celeba-metfaces"):
        protocol, _ = load_protocol(name)
        assert (
            protocol.prior_settings["stylegan2@ffhq"] == protocol.prior_settings["stylegan2@metfaces"] == {"crop": 800}
        )
    dogs, _ = load_protocol("ppa-dogs")
    assert not dogs.prior_settings


def test_a_finished_run_is_found_again(toy: Path, tmp_path: Path) -> None:
    """Resolving "all" once more gives the same run, not another one."""
    options = {**TOY, "protocol": "toy", "settings": {"protocol.identities": None}, "out": tmp_path, "device": "cpu"}
    first = mibench.run(**options)
    assert mibench.run(**options).reused
    assert first.metrics["acc1"].n == 6
