"""The referee's side of training: data by need, checkpoints, weights and card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from toyworld.data import ToyFaces
from toyworld.training import TrainToyPrior

from mibench.errors import MibenchError
from mibench.system.files import file_sha256
from mibench.weights import cards, training
from mibench.weights.checkpoint import FileCheckpoint
from mibench.weights.load import build_network
from mibench.weights.training import Training


def toy_training(kind: str = "target", architecture: str = "toynet", **fields: Any) -> Training:
    return Training(kind=kind, architecture=architecture, dataset="toyfaces", **fields)


def test_a_card_and_weights_that_load(toy: Path, tmp_path: Path) -> None:
    path, card = training.train(toy_training(tag="again", output=tmp_path / "out"), device="cpu")
    assert path == tmp_path / "out" / "cards" / "toynet_toyfaces_again.yaml"
    weights = tmp_path / "out" / "weights" / "toynet_toyfaces_again.safetensors"
    assert file_sha256(weights) == card.weights.sha256
    assert weights.stat().st_size == card.weights.bytes
    assert card.name == "toynet@toyfaces+again"
    assert card.recipe["epochs"] == 3
    assert card.measured is not None
    assert {name: card.measured[name] for name in ("test_accuracy", "epochs")} == {"test_accuracy": 1.0, "epochs": 3}
    assert set(card.measured) == {"test_accuracy", "epochs", "seconds"}


def test_trained_weights_are_found_by_name(toy: Path) -> None:
    training.train(toy_training(tag="mine"), device="cpu")
    network, card = build_network(cards.find("target", "toynet+mine", "toyfaces"))
    assert card.classes == 6
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_an_interrupted_training_continues(toy: Path) -> None:
    settings = {"train": {"stop_after": 2}}
    with pytest.raises(KeyboardInterrupt):
        training.train(toy_training(settings=settings), device="cpu")
    (checkpoint,) = (toy / "training").glob("*/checkpoint.pt")
    assert checkpoint.parent.name.startswith("toynet_toyfaces-")
    state = FileCheckpoint(checkpoint).load()
    assert state is not None
    assert state["epoch"] == 2
    _, card = training.train(toy_training(settings=settings), device="cpu")
    assert card.measured is not None
    assert card.measured["epochs"] == 3
    assert not checkpoint.exists()


def test_other_settings_do_not_continue_from_a_foreign_checkpoint(toy: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        training.train(toy_training(settings={"train": {"stop_after": 2}}), device="cpu")
    _, card = training.train(toy_training(settings={"train": {"epochs": 1}}), device="cpu")
    assert card.measured is not None
    assert card.measured["epochs"] == 1


def test_a_prior_sees_public_pixels_only(toy: Path) -> None:
    _, card = training.train(toy_training("prior", "toygan"), device="cpu")
    assert card.kind == "prior"
    resolved = training.resolve_training(toy_training("prior", "toygan"))
    recipe, dataset = resolved.recipe, resolved.dataset
    handed = training.data_for(recipe, dataset, None, torch.device("cpu"))
    assert handed(8).shape == (24, 3, 8, 8)
    assert not hasattr(handed, "private")


def test_a_prior_made_against_a_target_is_named_after_it_and_may_only_query_it(toy: Path) -> None:
    path, card = training.train(toy_training("prior", "toyaimed", target="toynet"), device="cpu")
    assert path.name == "toyaimed_toyfaces_toynet.yaml"
    assert card.name == "toyaimed@toyfaces+toynet"
    target = cards.find("target", "toynet", "toyfaces")
    assert card.recipe["target"] == target.name
    assert card.recipe["target_sha256"] == target.card().weights.sha256
    assert "--target toynet" in card.recipe["command"]
    assert card.measured == {"queries_forward": 24}
    resolved = training.resolve_training(toy_training("prior", "toyaimed", target="toynet"))
    recipe, dataset = resolved.recipe, resolved.dataset
    handed = training.data_for(recipe, dataset, target, torch.device("cpu"))
    assert not hasattr(handed, "private")
    with pytest.raises(MibenchError, match="grants SCORES"):
        handed.victim.logits(torch.rand(1, 3, 8, 8))


def test_a_run_takes_the_prior_of_its_target(toy: Path) -> None:
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    request = RunRequest(attack="toyattack", target="toynet", dataset="toyfaces", protocol="toy", prior="toyaimed")
    with pytest.raises(MibenchError, match=r"mibench train prior toyaimed --target toynet --dataset toyfaces"):
        make_plan(request)
    training.train(toy_training("prior", "toyaimed", target="toynet"), device="cpu")
    plan = make_plan(request)
    assert plan.spec.prior is not None
    assert plan.spec.prior.card == "toyaimed@toyfaces+toynet"
    # the same architecture with other weights (fp16, trained again) is another target
    training.train(toy_training(tag="again"), device="cpu")
    with pytest.raises(MibenchError, match=r"no trained weights for the prior 'toyaimed@toyfaces\+toynet-again'"):
        make_plan(dataclasses.replace(request, target="toynet+again"))
    with pytest.raises(MibenchError, match=r"trained against other weights than 'toynet@toyfaces\+again'"):
        make_plan(dataclasses.replace(request, target="toynet+again", prior="toyaimed+toynet"))


def test_an_attack_brings_its_own_prior(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mibench import registry
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    training.train(toy_training("prior", "toyaimed", target="toynet"), device="cpu")
    monkeypatch.setattr(registry.load("attack", "toyattack"), "prior", "toyaimed")
    request = RunRequest(attack="toyattack", target="toynet", dataset="toyfaces", protocol="toy")
    plan = make_plan(request)
    assert plan.spec.prior is not None
    assert plan.spec.prior.architecture == "toyaimed"
    floor = plan.floor()
    assert floor is not None
    assert floor.spec.prior == plan.spec.prior, "the floor draws from the prior of its attack"
    asked = make_plan(dataclasses.replace(request, prior="toygan"))
    assert asked.spec.prior is not None
    assert asked.spec.prior.architecture == "toygan"


def test_an_attack_on_styles_is_refused_a_prior_without_them_before_anything_is_computed(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mibench import registry
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    monkeypatch.setattr(registry.load("attack", "toyattack"), "needs_mapping", True)
    with pytest.raises(MibenchError, match=r"needs a prior with a mapping network, 'toygan@toyfaces' has none"):
        make_plan(RunRequest(attack="toyattack", target="toynet", dataset="toyfaces", protocol="toy"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "toyaimed"}, "is made against one target; name it, such as --target"),
        ({"architecture": "toygan", "target": "toynet"}, "is made against no target; drop --target"),
        ({"architecture": "toyaimed", "target": "toynot"}, "toynet"),
    ],
)
def test_a_target_that_is_missing_or_not_wanted_is_refused(toy: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        training.train(toy_training("prior", **fields), device="cpu")


def test_data_with_shared_identities_is_refused(toy: Path) -> None:
    with pytest.raises(MibenchError, match="both private and public"):
        training.train(toy_training(settings={"dataset": {"overlap": True}}), device="cpu")


@pytest.mark.parametrize(
    ("training_", "message"),
    [
        (
            toy_training(settings={"train": {"epoch": 1}}),
            "unknown setting 'train.epoch' from --set; did you mean 'epochs'",
        ),
        (toy_training(settings={"train": {"architecture": "x"}}), "the architecture is the second argument"),
        (toy_training(settings={"trian": {}}), "did you mean 'train'"),
        (toy_training("judge", "toyjudge"), "no recipe to train the judge 'toyjudge'"),
    ],
)
def test_wrong_trainings_are_refused(toy: Path, training_: Training, message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        training.resolve_training(training_)


def test_a_place_that_cannot_be_written_is_refused_before_the_training(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MibenchError, match=r"cannot write .*: Not a directory"):
        training.train(toy_training(tag="mine", output=tmp_path / "file" / "mine"), device="cpu")
    assert not (toy / "training").exists()


def test_files_of_another_card_are_refused_before_the_training(toy: Path, tmp_path: Path) -> None:
    """``toynet@toyfaces+a_b`` and ``toynet@toyfaces_a+b`` would share a file, and on some disks a and A would."""
    training.train(toy_training(tag="mine", output=tmp_path), device="cpu")
    card = tmp_path / "cards" / "toynet_toyfaces_mine.yaml"
    card.write_text(card.read_text().replace("+mine", "+MINE"))
    before = card.read_bytes()
    with pytest.raises(MibenchError, match=r"is the card of 'toynet@toyfaces\+MINE'; choose another tag"):
        training.train(toy_training(tag="mine", output=tmp_path), device="cpu")
    assert card.read_bytes() == before


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.5])
def test_a_seed_is_a_whole_number(toy: Path, seed: Any) -> None:
    with pytest.raises(MibenchError, match="seed must be a whole number from 0"):
        training.train(toy_training(tag="mine", seed=seed), device="cpu")


def test_a_recipe_refuses_settings_before_it_runs(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def check(self: TrainToyPrior, images: int | None = None) -> None:
        asked.append(images)
        raise MibenchError("not these")

    monkeypatch.setattr(TrainToyPrior, "check", check)
    with pytest.raises(MibenchError, match="not these"):
        training.resolve_training(toy_training("prior", "toygan"))
    assert asked == [ToyFaces().public_count()]


def test_a_broken_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"half a file")
    with pytest.raises(MibenchError, match=r"cannot read the checkpoint .*; delete it to start the training again"):
        FileCheckpoint(path).load()


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(MibenchError, match="cannot read the checkpoint"):
        FileCheckpoint(tmp_path / "checkpoint.pt").load()
    assert not (tmp_path / "sprung").exists()
