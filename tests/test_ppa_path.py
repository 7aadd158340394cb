"""The 224-pixel family from data to results, at toy size: dogs, a narrow ResNet-18, Inception-v3, a small StyleGAN2."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save

from mibench import settings as config
from mibench.api import Card, CardName, ImageSpec, WeightsFile
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Arguments
from mibench.cli import cli
from mibench.weights import cards, load

SIZE, JUDGE_SIZE, RESOLUTION, CROP = 32, 75, 32, 26
PRIOR = {
    "z_dim": 16, "w_dim": 16, "resolution": RESOLUTION, "channel_base": 256, "channel_max": 16, "mapping_layers": 2,
}  # fmt: skip


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def write_prior(home: Path, name: str) -> None:
    """A StyleGAN2 with random weights: this is about the path, not about the pictures."""
    torch.manual_seed(0)
    generator = StyleGAN2Arguments(**PRIOR).generator()
    content = save({f"G.{key}": value.contiguous() for key, value in generator.state_dict().items()})
    file = WeightsFile(f"{CardName.parse(name).stem}.safetensors", hashlib.sha256(content).hexdigest(), len(content))
    card = Card(
        name=name,
        kind="prior",
        architecture="stylegan2",
        dataset=name.partition("@")[2],
        image=ImageSpec(size=RESOLUTION),
        weights=file,
        arguments=PRIOR,
    )
    (home / "weights").mkdir(exist_ok=True)
    (home / "weights" / file.file).write_bytes(content)
    cards.write_card(card, home / "cards")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[pytest.MonkeyPatch], list[str]]:
    """A home with a target, a judge and a prior; returns the ``--set`` words of its data."""
    folder = tmp_path_factory.mktemp("dogs")
    home, tree = folder / "home", folder / "stanford_dogs"
    data = ["--set", f"dataset.root={tree}", "--set", "dataset.classes=3"]
    small = ["--set", "train.width=0.0625", "--set", "train.epochs=1", "--set", "train.batch_size=8", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIBENCH_HOME", str(home))
        call("data", "fixture", "stanford_dogs", "--output", tree, "--people", 3, "--images", 10)
        dogs = ["--dataset", "stanford_dogs", *data]
        call("train", "target", "resnet18", *dogs, *small, "--set", f"train.size={SIZE}")
        call("train", "judge", "inception_v3", *dogs, *small, "--set", f"train.size={JUDGE_SIZE}")
        write_prior(home, "stylegan2@afhq")

    def enter(patch: pytest.MonkeyPatch) -> list[str]:
        patch.setenv("MIBENCH_HOME", str(home))
        return dogs

    return enter


def test_target_and_judge_carry_the_normalisation_and_the_recipe(
    world: Callable[[pytest.MonkeyPatch], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world(monkeypatch)
    target, judge = (cards.all_cards()[f"{name}@stanford_dogs"].card() for name in ("resnet18", "inception_v3"))
    assert target.image == ImageSpec(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert judge.image == ImageSpec(size=JUDGE_SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (target.classes, judge.classes) == (3, 3)
    assert target.dataset_digest == judge.dataset_digest, "one data set, seen whole by the target, cropped by the judge"
    assert target.recipe["optimiser"] == judge.recipe["optimiser"] == "adam"
    assert (target.recipe["milestones"], judge.recipe["milestones"]) == ([75, 90], [80])


@pytest.mark.parametrize("attack", ["ppa", "dmmia"])
def test_attacks_run_against_the_family_and_are_judged_at_the_judges_size(
    world: Callable[[pytest.MonkeyPatch], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attack: str
) -> None:
    dogs = world(monkeypatch)
    monkeypatch.setattr("mibench.reports.figures.write.write_figures", lambda *run, **more: [])  # seconds each
    words = ["--attack", attack, "--target", "resnet18", *dogs, "--protocol", "ppa-smoke", "--prior", "stylegan2@afhq"]
    words += ["--set", f"prior.crop={CROP}", "--device", "cpu", "--output", tmp_path, "--json"]
    words += ["--min-accuracy", 0]  # an epoch of a tiny network
    found = json.loads(call("run", *words).stdout)
    assert not found["missing"]
    metrics = found["metrics"]
    assert metrics["acc1"]["n"] == 3
    assert metrics["acc1"]["extractor"] == f"inception_v3@stanford_dogs (antialias to {JUDGE_SIZE})"
    assert metrics["knn_distance"]["value"] > 0
    assert "control_private_test_acc1" in metrics
    assert "control_nearest_public_acc1" not in metrics, "there are no public images here"
    record = json.loads((Path(found["path"]) / "run.json").read_text())
    assert record["settings"]["prior.crop"] == {"value": CROP, "origin": "--set", "by_user": True}
    assert record["settings"]["protocol.name"]["value"] == "ppa-smoke"
    assert record["spec"]["preset"] == "smoke", "made for this data set: before the data set's own preset"
    again = json.loads(call("score", found["path"], "--device", "cpu", "--json").stdout)
    assert again["metrics"] == metrics


def test_a_file_as_ppa_writes_it_comes_in_and_is_measured_as_what_it_was(
    world: Callable[[pytest.MonkeyPatch], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PPA stores {'model_state_dict': ...}, its network in an attribute ``model``, compiled by torch 2."""
    dogs = world(monkeypatch)
    for kind, name, size, prefix in (
        ("target", "resnet18", SIZE, "model._orig_mod."),
        ("judge", "inception_v3", JUDGE_SIZE, "model."),
    ):
        original = cards.all_cards()[f"{name}@stanford_dogs"]
        state = {f"{prefix}{key}": value for key, value in load.load_weights(original).items()}
        file = tmp_path / f"{name}.pth"
        torch.save({"epoch": 100, "model_state_dict": state, "optimizer_state_dict": {"state": {}}}, file)
        wanted = f"{kind}:{name}@stanford_dogs+ppa"
        words = [file, "--as", wanted, *dogs[2:], "--set", f"import.size={size}", "--device", "cpu"]
        call("import", *words, "--output", tmp_path / "imported")
        content = config.read_yaml(tmp_path / "imported" / "cards" / f"{name}_stanford_dogs_ppa.yaml")
        card, measured = cards.parse_card(content, "card"), original.card().measured
        assert measured is not None
        assert card.image == original.card().image
        assert card.recipe["container"] == "model_state_dict"
        assert card.measured is not None
        assert card.measured["test_accuracy"] == pytest.approx(measured["test_accuracy"])


def test_without_a_protocol_the_data_sets_own_asks_for_its_own_prior_and_presets(
    world: Callable[[pytest.MonkeyPatch], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    dogs = world(monkeypatch)
    root = dogs[3].partition("=")[2]
    settings = {"dataset": {"root": root, "classes": 3}}
    named = RunRequest(attack="dmmia", target="resnet18", dataset="stanford_dogs", settings=settings, min_accuracy=0.0)
    plan = make_plan(named)
    assert plan.spec.protocol.title == "ppa-dogs v1"
    assert plan.spec.protocol.identities == 3
    assert plan.spec.prior is not None
    assert plan.spec.prior.card == "stylegan2@afhq"
    assert plan.spec.judge.card == "inception_v3@stanford_dogs"
    assert plan.spec.preset == "dogs"
