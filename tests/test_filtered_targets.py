"""Targets whose answers are filtered: their cards, runs and priors against them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import toyworld
from click.testing import CliRunner
from toyworld import build
from toyworld.data import ToyFaces

import mibench
from mibench import registry
from mibench.api import (
    Access,
    AccessError,
    Card,
    FilteredAnswers,
    MibenchError,
)
from mibench.cli import cli
from mibench.results import StoredRun
from mibench.targets.defences.answer_filters import LabelOnly, Noise, Rounding, Temperature, TopK
from mibench.weights.answer_filters import build_answers
from mibench.weights.cards import find, write_card
from mibench.weights.load import build_classifier_extractor, build_victim

CPU = torch.device("cpu")
TOY = {"target": "toynet+rounding", "dataset": "toyfaces", "protocol": "toy", "device": "cpu"}


@pytest.fixture
def filtering(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world, in which the real filters are installed."""
    kinds = (Temperature, Noise, TopK, Rounding, LabelOnly)
    catalogue = {"defence": {kind.name: f"{kind.__module__}:{kind.__qualname__}" for kind in kinds}}
    monkeypatch.setattr(toyworld, "FILTERS", catalogue, raising=False)
    monkeypatch.setattr(build, "POINTS", (*build.POINTS, EntryPoint("filters", "toyworld:FILTERS", registry.GROUP)))
    registry.catalogue.cache_clear()
    return toy


def filtered(*names: str, **options: object) -> Card:
    return mibench.train("target", "toynet", dataset="toyfaces", defences=names, device="cpu", **options).card  # type: ignore[arg-type]


def run(out: Path, attack: str = "floor", **changes: object) -> StoredRun:
    return mibench.run(attack, **{**TOY, "out": out, **changes})  # type: ignore[arg-type]


def test_a_filtered_target_has_the_twins_weights_and_its_filters_on_its_card(filtering: Path) -> None:
    twin = find("target", "toynet", "toyfaces").card()
    card = filtered("rounding", settings={"defence.decimals": 0})
    assert card.name == "toynet@toyfaces+rounding"
    assert card.weights.sha256 == twin.weights.sha256
    stored = (filtering / "weights" / card.weights.file).read_bytes()
    assert stored == (filtering / "weights" / twin.weights.file).read_bytes()
    assert card.access == "scores"
    assert card.defence is not None
    assert (card.defence.name, card.defence.filters) == ("rounding", ("rounding",))
    assert card.defence.settings == {"rounding": {"decimals": 0}}
    assert (card.defence.twin, card.defence.twin_sha256) == (twin.name, twin.weights.sha256)
    assert find("target", "toynet+rounding", "toyfaces").card() == card
    assert find("target", "toynet", "toyfaces").card() == twin


def test_utility_is_measured_again_through_the_filter(filtering: Path) -> None:
    measured = filtered("noise", settings={"defence.scale": 0.7}).measured
    assert measured is not None
    behind = build_victim(find("target", "toynet+noise", "toyfaces"), Access.SCORES, CPU)
    plain = build_victim(find("target", "toynet", "toyfaces"), Access.SCORES, CPU)
    test = ToyFaces().private("test", plain.image.size)
    shown, labels = test.floats(), test.labels
    scores = behind.scores(shown)
    assert measured["test_images"] == len(test)
    assert measured["test_accuracy"] == (plain.labels(shown) == labels).float().mean().item()
    assert measured["answer_accuracy"] == pytest.approx((scores.argmax(dim=1) == labels).double().mean().item())
    assert measured["answer_accuracy"] < measured["test_accuracy"]
    moved = (scores - plain.scores(shown)).abs().sum(dim=1).mean().item() / 2
    assert measured["answer_distortion"] == pytest.approx(moved, abs=1e-6)


def test_the_victim_of_a_card_answers_through_its_filters_and_the_referee_looks_past_them(filtering: Path) -> None:
    filtered("top-k", "temperature", settings={"defence.top-k.k": 1, "defence.temperature.tau": 2.0})
    file, twin = (find("target", name, "toyfaces") for name in ("toynet+top-k+temperature", "toynet"))
    behind, plain = build_victim(file, Access.SCORES, CPU), build_victim(twin, Access.GRADIENTS, CPU)
    size = plain.image.size
    shown = torch.rand(6, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = FilteredAnswers([TopK(k=1), Temperature(tau=2.0)])(plain.logits(shown), shown)
    assert torch.allclose(behind.scores(shown), expected, atol=1e-6)
    assert torch.equal(behind.labels(shown), plain.labels(shown))
    seen = [build_classifier_extractor(one, CPU, None)((shown * 255).byte()).logits for one in (file, twin)]
    assert torch.equal(*seen)


def test_a_run_by_scores_meets_the_filter_and_says_so_in_its_digest(filtering: Path, tmp_path: Path) -> None:
    runs = []
    for decimals in (0, 3):
        filtered("rounding", settings={"defence.decimals": decimals})
        found = run(tmp_path)
        runs.append(found)
        target = json.loads((found.path / "run.json").read_text())["spec"]["target"]
        assert target["filters"] == {"rounding": {"decimals": decimals}}
        confidence = found.samples["confidence"]
        assert (confidence == confidence.round(decimals)).all() or decimals
        assert "defence rounding" in found.record["code"]
    plain = run(tmp_path, target="toynet")
    assert "filters" not in plain.specification["target"]
    assert "defence rounding" not in plain.record["code"]
    assert len({one.path.name.rpartition("-")[2] for one in (*runs, plain)}) == 3, "same weights, three results"


def test_an_attack_by_gradients_is_refused_with_the_cure(filtering: Path, tmp_path: Path) -> None:
    filtered("rounding")
    with pytest.raises(AccessError) as caught:
        run(tmp_path, "toyattack")
    line = str(caught.value)
    assert "filters its answers (rounding), which an attacker with gradients bypasses" in line
    assert "attack toynet@toyfaces instead" in line
    with pytest.raises(AccessError, match="bypasses"):
        build_victim(find("target", "toynet+rounding", "toyfaces"), Access.GRADIENTS, CPU)
    assert not list(tmp_path.glob("toyattack*"))


def test_an_attack_by_scores_is_refused_labels_alone(filtering: Path, tmp_path: Path) -> None:
    card = filtered("label-only")
    assert card.access == "labels"
    assert card.measured is not None
    assert "answer_accuracy" not in card.measured
    with pytest.raises(AccessError, match=r"answers labels only \(label-only\)"):
        run(tmp_path, target="toynet+label-only")
    behind = build_victim(find("target", "toynet+label-only", "toyfaces"), Access.LABELS, CPU)
    assert behind.labels(torch.rand(3, 3, behind.image.size, behind.image.size)).shape == (3,)


def test_a_card_that_claims_gradients_does_not_get_past_its_filters(filtering: Path) -> None:
    filtered("rounding")
    path = filtering / "cards" / "toynet_toyfaces_rounding.yaml"
    path.write_text(path.read_text().replace("access: scores", "access: gradients"))
    with pytest.raises(AccessError, match="bypasses"):
        build_victim(find("target", "toynet+rounding", "toyfaces"), Access.GRADIENTS, CPU)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("decimals: 1", "digits: 1", "lacks the setting 'decimals'"),
        ("decimals: 1", "decimals: 1\n      digits: 2", "unknown setting"),
        ("decimals: 1", "decimals: -1", "must lie in 0..12"),
        ("  - rounding", "  - top-k", "without its settings"),
    ],
)
def test_a_damaged_card_is_refused(filtering: Path, before: str, after: str, line: str) -> None:
    filtered("rounding")
    path = filtering / "cards" / "toynet_toyfaces_rounding.yaml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(MibenchError, match=line):
        build_answers(find("target", "toynet+rounding", "toyfaces").card())


def test_a_filter_that_is_not_installed_is_not_passed_over(filtering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered("rounding")
    monkeypatch.setattr(build, "POINTS", build.POINTS[:-1])
    registry.catalogue.cache_clear()
    with pytest.raises(MibenchError, match="unknown defence 'rounding'"):
        build_victim(find("target", "toynet+rounding", "toyfaces"), Access.SCORES, CPU)


def test_a_prior_is_trained_on_the_filtered_answers_and_belongs_to_them(filtering: Path, tmp_path: Path) -> None:
    filtered("rounding", settings={"defence.decimals": 0})
    settings = {"dataset": "toyfaces", "device": "cpu"}
    aimed = mibench.train("prior", "toyaimed", target="toynet+rounding", **settings).card  # type: ignore[arg-type]
    assert aimed.recipe["target_filters"] == {"rounding": {"decimals": 0}}
    plain = mibench.train("prior", "toyaimed", target="toynet", **settings).card  # type: ignore[arg-type]
    assert "target_filters" not in plain.recipe
    assert aimed.weights.sha256 != plain.weights.sha256
    run(tmp_path, prior="toyaimed+toynet-rounding")
    with pytest.raises(MibenchError, match="filtered otherwise"):
        run(tmp_path, prior="toyaimed+toynet")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--defence", "rounding", "--set", "train.epochs=2"], "rounding trains no classifier"),
        (["--defence", "rounding", "--seed", "3"], "rounding trains no classifier"),
        (["--defence", "rounding", "--twin", "none"], "name them with --twin"),
        (
            ["--defence", "rounding", "--twin", "toynet+mine"],
            "no trained weights for the target 'toynet@toyfaces+mine'",
        ),
        (["--defence", "rounding", "--set", "defence.decimals=-1"], "defence.decimals must lie in 0..12"),
        (["--defence", "rounding", "--set", "defence.decimals=1.5"], "defence.decimals"),
        (["--defence", "top-k", "--set", "defence.k=0"], "defence.k must be 1 or more"),
        (["--defence", "top-k", "--set", "defence.rest=none"], "unknown defence.rest 'none'"),
        (
            ["--defence", "temperature", "--set", "defence.tau=0"],
            "defence.tau must be a finite number of 0.001 or more",
        ),
        (["--defence", "noise", "--set", "defence.scale=-1"], "defence.scale must be finite"),
        (["--defence", "noise", "--set", "defence.distribution=normal"], "unknown defence.distribution 'normal'"),
    ],
)
def test_nonsense_is_refused(filtering: Path, arguments: list[str], line: str) -> None:
    cards = sorted((filtering / "cards").iterdir())
    done = CliRunner().invoke(cli, ["train", "target", "toynet", "--dataset", "toyfaces", *arguments])
    assert done.exit_code == 2, done.output
    assert line in " ".join(done.output.split())
    assert sorted((filtering / "cards").iterdir()) == cards


def test_filters_go_around_the_undefended_twin_and_never_over_it(filtering: Path) -> None:
    filtered("rounding")
    with pytest.raises(MibenchError, match="is defended itself"):
        filtered("top-k", twin="toynet+rounding")
    twin = find("target", "toynet", "toyfaces").card()
    write_card(replace(twin, name="toynet@toyfaces+mine"), filtering / "cards")
    with pytest.raises(MibenchError, match="name of the twin itself"):
        filtered("top-k", twin="toynet+mine", tag="mine")


def test_a_filter_around_a_trained_defence_is_measured_after_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    small = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 10, "dataset.train_images": 8}
    settings = {**small, "defence.negls.alpha": -0.02, "defence.top-k.k": 3}
    both, alone = (
        mibench.train("target", "vgg16", defences=names, twin="none", tag=tag, settings=given, device="cpu").card
        for names, given, tag in (
            (("top-k", "negls"), settings, None),
            (("negls",), {**small, "defence.alpha": -0.02}, "again"),
        )
    )
    assert both.name == "vgg16@synthfaces+top-k+negls"
    assert both.defence is not None
    assert both.defence.filters == ("top-k",)
    assert set(both.defence.settings) == {"top-k", "negls"}
    assert both.access == "scores"
    assert both.measured is not None
    assert alone.measured is not None
    assert both.measured["test_accuracy"] == alone.measured["test_accuracy"]
    assert "answer_accuracy" in both.measured
    trained = [build_classifier_extractor(find("target", card.name, "synthfaces"), CPU, None) for card in (both, alone)]
    shown = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(*(one(shown).logits for one in trained))
    with pytest.raises(AccessError, match="without filters, defended by negls"):
        build_victim(find("target", both.name, "synthfaces"), Access.GRADIENTS, CPU)
