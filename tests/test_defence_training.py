"""What all defences share: hooks that do nothing change nothing, checkpoints, the twin, the card, refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from defended import CLASSES, same_weights, train_tiny
from powercut import Memory, Stopped
from torch import Tensor, nn

import mibench
from mibench import registry
from mibench.api import Batch, ClassifierOutput, Defence, MibenchError, TrainingHooks
from mibench.cli import cli
from mibench.sweeps.suite import parse_suite
from mibench.targets.defences.anti_adversarial import AntiAdversarial
from mibench.targets.defences.bido import BiDO
from mibench.targets.defences.label_smoothing import LabelSmoothing, NegativeLabelSmoothing
from mibench.targets.defences.mid import MID
from mibench.targets.defences.none import NoDefence
from mibench.targets.defences.random_erasing import RandomErasing
from mibench.targets.defences.removed_shortcuts import RemovedShortcuts
from mibench.targets.defences.trap_mid import TrapMID
from mibench.weights.cards import find
from mibench.weights.load import build_network
from mibench.weights.training import Training, resolve_training

OFF = [
    NoDefence(),
    LabelSmoothing(alpha=0.0),
    NegativeLabelSmoothing(alpha=0.0),
    RandomErasing(probability=0.0),
    MID(beta=0.0),
    BiDO(lambda_x=0.0, lambda_y=0.0, sampler="shuffle"),
    AntiAdversarial(weight=0.0),
    TrapMID(beta=0.0),
    RemovedShortcuts(skip=(1.0, 1.0, 1.0, 1.0)),
]
SMALL = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 10, "dataset.train_images": 8}


@pytest.mark.parametrize("defence", OFF, ids=lambda defence: defence.name)
def test_a_defence_that_is_off_leaves_the_training_as_it_is_to_the_bit(defence: Defence) -> None:
    assert same_weights(train_tiny(), train_tiny(defence))


@pytest.mark.parametrize(
    ("defence", "architecture", "first"),
    [
        (RemovedShortcuts(removed_after=0.5), "facenet64", 3),
        (NegativeLabelSmoothing(alpha=-0.05), "vgg16", 4),  # off for two epochs, on the ramp in the third
        (AntiAdversarial(begins=0.5, iterations=1), "vgg16", 3),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_best_epoch_is_one_in_which_the_defence_acted(defence, architecture, first, monkeypatch) -> None:
    """Undefended epochs may be better: they are no epochs of this defence."""
    scores = iter([0.9, 0.8, 0.2, 0.1])

    def accuracy(network, store, labels, context=None):
        return next(scores, 0.5) if context is not None else 0.5  # of the epochs, then of the stored weights

    monkeypatch.setattr("mibench.targets.training.recipes.accuracy", accuracy)
    trained = train_tiny(defence, architecture=architecture, epochs=4, select="best_on_test")
    assert trained.measured["epoch"] == first
    assert trained.measured["selection"] == f"test-set selection: best of {5 - first} epochs"


@pytest.mark.parametrize("name", registry.names("defence"))
def test_a_defence_is_a_frozen_configuration_with_working_presets(name: str) -> None:
    kind = registry.load("defence", name)
    assert issubclass(kind, Defence)
    assert kind.name == name
    kind().check()
    for preset in mibench.settings.presets_of("defence", name).presets.values():
        defence, _ = mibench.settings.resolve(kind, [preset], scope="defence")
        defence.check()
        assert preset.sources, f"{name}: {preset.origin} names no source"


class Counting(TrainingHooks):
    """Owns a network that every batch changes, records a hidden layer, and clips."""

    hidden_layers = ("feature.43", "bn")

    def __init__(self) -> None:
        super().__init__()
        self.networks = {"counter": nn.BatchNorm1d(3)}
        self.optimisers = {"counter": torch.optim.SGD(self.networks["counter"].parameters(), lr=0.1, momentum=0.9)}
        self.seen: list[tuple[int, ...]] = []
        self.norms: list[float] = []

    def batch(self, batch: Batch) -> Batch:
        self.networks["counter"](batch.images.mean(dim=(2, 3))).square().sum().backward()
        self.optimisers["counter"].step()
        self.optimisers["counter"].zero_grad()
        return batch

    def penalties(self, output: ClassifierOutput, hidden: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        self.seen.append(tuple(hidden["feature.43"].shape))
        assert torch.equal(hidden["bn"], output.features)
        return {"penalty": 0.01 * output.features.square().mean() * self.networks["counter"].weight.detach().sum()}

    def before_update(self, network: nn.Module, batch: Batch) -> None:
        nn.utils.clip_grad_norm_(network.parameters(), 0.01)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    def measured(self, network: nn.Module) -> Mapping[str, float]:
        return {"counted": float(self.networks["counter"].num_batches_tracked)}


class WithCounter(Defence):
    """Its hooks are kept, to look at them."""

    name = "counter"
    made: list[Counting] = []  # noqa: RUF012 - one list for all

    def hooks(self, network: nn.Module, task: object) -> TrainingHooks:
        self.made.append(Counting())
        return self.made[-1]


def test_hooks_see_hidden_layers_clip_after_the_backward_pass_and_report() -> None:
    trained = train_tiny(WithCounter())
    hooks = WithCounter.made[-1]
    assert set(hooks.seen) == {(12, 32, 1, 1)}
    assert len(hooks.seen) == 12  # two epochs of 72 images in batches of 12
    assert max(hooks.norms) <= 0.0100001
    assert trained.measured["counted"] == 12


def test_a_resumed_training_restores_the_networks_of_its_defences() -> None:
    whole = train_tiny(WithCounter(), RandomErasing())
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(WithCounter(), RandomErasing(), checkpoint=stopped)
    assert same_weights(whole, train_tiny(WithCounter(), RandomErasing(), checkpoint=stopped))


class Doubling(TrainingHooks):
    """Shows every image twice, the second time under the next label and with three times the weight."""

    def batch(self, batch: Batch) -> Batch:
        weights = torch.cat([torch.full((batch.plain,), w) for w in (0.5, 1.5)])
        labels = torch.cat([batch.labels, (batch.labels + 1) % CLASSES])
        return Batch(
            images=torch.cat([batch.images] * 2),
            labels=labels,
            step=batch.step,
            epoch=batch.epoch,
            weights=weights,
            plain=batch.plain,
        )


class Double(Defence):
    """Of :class:`Doubling`."""

    name = "double"

    def hooks(self, network: nn.Module, task: object) -> TrainingHooks:
        return Doubling()


def test_added_samples_count_with_their_weights_under_every_loss() -> None:
    plain = train_tiny(Double())
    assert not same_weights(plain, train_tiny())
    composed = train_tiny(Double(), NegativeLabelSmoothing(alpha=-0.1, schedule="constant"))
    assert not same_weights(plain, composed)


def test_negative_smoothing_and_bido_act_in_one_training() -> None:
    records: list[Mapping[str, float]] = []
    smoothing = NegativeLabelSmoothing(alpha=-0.3, schedule="constant")
    both = train_tiny(smoothing, BiDO(), epochs=1, log=lambda **record: records.append(record))
    assert {"train_dependence_on_pixels", "train_dependence_on_labels"} <= records[0].keys()
    for others in ((), (smoothing,), (BiDO(),)):
        assert not same_weights(both, train_tiny(*others, epochs=1)), others


def test_a_hidden_layer_that_the_network_lacks_is_named() -> None:
    class Lost(Counting):
        hidden_layers = ("feature.99",)

    class WithLost(WithCounter):
        name = "lost"

        def hooks(self, network: nn.Module, task: object) -> TrainingHooks:
            return Lost()

    with pytest.raises(MibenchError, match=r"no layer 'feature.99'"):
        train_tiny(WithLost())


def test_a_defended_target_follows_its_twin_and_its_card_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    twin = mibench.train("target", "vgg16", tag="small", settings=SMALL, seed=3, device="cpu").card
    data = {key: value for key, value in SMALL.items() if key.startswith("dataset")}
    settings = {**data, "defence.largest": 0.3}
    card = mibench.train(
        "target", "vgg16", defences="midre", twin="vgg16+small", tag="again", settings=settings, device="cpu"
    ).card
    assert card.name == "vgg16@synthfaces+again"
    assert card.defence is not None
    assert card.defence.settings["midre"] == {"probability": 1.0, "smallest": 0.1, "largest": 0.3, "fill": "mean"}
    assert (card.defence.twin, card.defence.twin_sha256) == (twin.name, twin.weights.sha256)
    differing = {key for key, value in card.recipe.items() if twin.recipe.get(key) != value}
    assert differing == {"command"}
    assert not card.defence.differs_from_twin
    assert "differs_from_twin" not in (tmp_path / "cards" / "vgg16_synthfaces_again.yaml").read_text()
    assert card.measured is not None
    assert card.measured["seconds"] > 0
    network, _ = build_network(find("target", "vgg16+again", "synthfaces"))
    assert not network.training


def test_a_training_that_leaves_its_twins_recipe_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    data = {key: value for key, value in SMALL.items() if key.startswith("dataset")}
    mibench.train("target", "vgg16", tag="small", settings=SMALL, seed=3, device="cpu")
    given = [f"--set={key}={value}" for key, value in data.items()]
    given += ["--set=train.images_per_identity=5", "--set=train.batch_size=64", "--set=train.checkpoint_seconds=9"]
    command = ["train", "target", "vgg16", "--defence", "none", "--twin", "vgg16+small", "--tag", "few", "--seed", "4"]
    done = CliRunner().invoke(cli, [*command, *given, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "not as the twin vgg16@synthfaces+small: images_per_identity 5 (twin: None)" in done.stdout
    card = find("target", "vgg16+few", "synthfaces").card()  # read from its file
    assert card.defence is not None
    assert card.defence.differs_from_twin == {"images_per_identity": (None, 5), "seed": (3, 4)}
    assert card.measured is not None
    assert (card.measured["train_images"], card.recipe["images_per_identity"]) == (50, 5)
    shown = CliRunner().invoke(cli, ["show", "card", card.name, "--json"])
    assert json.loads(shown.stdout)["defence"]["differs_from_twin"]["seed"] == [3, 4]


def test_a_twin_trained_in_bfloat16_is_left_by_the_override_that_the_message_names() -> None:
    """The shipped narrow VGG16: at-at's perturbations do not exist in its precision."""
    asked = Training(kind="target", architecture="vgg16", defences=("at-at",))
    resolved = resolve_training(asked)
    assert (resolved.training.precision, resolved.differs_from_twin) == ("bfloat16", {})
    with pytest.raises(MibenchError, match=r"bfloat16 tells apart no less than 0.00391; add --precision float32 "):
        train_tiny(AntiAdversarial(), precision="bfloat16")
    overridden = resolve_training(replace(asked, precision="float32"))
    assert overridden.differs_from_twin == {"precision": ("bfloat16", "float32")}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["target", "vgg16", "--tag", "again", "--defence", "negsl"], "unknown defence 'negsl'; did you mean 'negls'?"),
        (["target", "vgg16", "--tag", "again", "--defence", "negls:fast"], "unknown preset of defence 'negls' 'fast'"),
        (["target", "vgg16", "--tag", "again", "--defence", "negls", "--defence", "negls"], "'negls' is named twice"),
        (
            ["target", "vgg16", "--tag", "again", "--defence", "negls", "--set", "defence.alfa=1"],
            "did you mean 'alpha'",
        ),
        (
            ["target", "vgg16", "--tag", "again", "--defence", "negls", "--set", "defence.alpha=0.1"],
            "it is the control ls",
        ),
        (
            ["target", "vgg16", "--tag", "again", "--defence", "ls", "--set", "defence.alpha=-0.1"],
            "it is the defence negls",
        ),
        (
            ["target", "vgg16", "--tag", "again", "--defence", "midre", "--set", "defence.largest=2"],
            "must be shares of the area",
        ),
        (["target", "vgg16", "--tag", "x", "--set", "defence.alpha=0.1"], "add --defence NAME"),
        (["target", "vgg16", "--tag", "x", "--twin", "vgg16"], "--twin belongs to a defended target"),
        (["judge", "facenet112", "--defence", "midre"], "no defence applies to the training of a judge"),
        (
            [
                "target",
                "vgg16",
                "--tag",
                "again",
                "--defence",
                "midre",
                "--defence",
                "negls",
                "--set",
                "defence.alpha=-1",
            ],
            "write defence.NAME.SETTING",
        ),
    ],
)
def test_nonsense_is_refused_before_anything_is_trained(arguments: list[str], line: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, ["train", *arguments, "--device", "cpu"])
    assert done.exit_code == 2, done.output
    assert line in " ".join(done.output.split())
    assert not (tmp_path / "weights").exists()


def test_a_run_records_what_defends_its_target_and_at_what_utility(toy: Path, tmp_path: Path) -> None:
    del toy
    run = mibench.run("toyattack", "toynet", "toyfaces", "toy", out=tmp_path, device="cpu")
    assert run.attacked["defence"] is None
    assert set(run.attacked) == {"test_accuracy", "test_images", "seconds", "defence"}


def test_targets_are_attacked_under_each_defence() -> None:
    suite = parse_suite(
        {"attacks": ["a"], "targets": ["x", "y"], "defences": ["none", "negls", "negls+bido"]}, "mine.yaml", "mine"
    )
    assert [cell.request.target for cell in suite.cells] == [
        *("x", "x+negls", "x+negls+bido"),
        *("y", "y+negls", "y+negls+bido"),
    ]
