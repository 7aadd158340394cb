"""DP-SGD: the step, the budget, the batches, and what must not learn anything besides."""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from defended import CLASSES, VECTORS, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import nn

import mibench
from mibench import registry
from mibench.api import MibenchError
from mibench.rng import Streams
from mibench.targets.defences import dp_sgd
from mibench.targets.defences.dp_sgd import DPSGD, PrivateHooks, budget, privatised
from mibench.targets.networks.group_norm import without_batch_norm
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training.backbones import without_classifier
from mibench.weights.cards import find
from mibench.weights.load import build_network

pytest.importorskip("opacus")
REFERENCE = VECTORS["dp_sgd"]
PRIVATE: dict[str, Any] = {"batch_size": 36, "epochs": 1}
HEAD = DPSGD(accountant="rdp", delta=1e-3)
ALL = DPSGD(accountant="rdp", delta=1e-3, trained="all")


def public_weights() -> dict[str, torch.Tensor]:
    """A public VGG16 with statistics unlike those of a fresh network."""
    torch.manual_seed(5)
    network = VGG16(num_classes=3, width=1 / 16, size=32)
    network(torch.rand(64, 3, 32, 32))
    return without_classifier(network.state_dict())


@pytest.fixture(scope="module")
def public() -> dict[str, torch.Tensor]:
    return public_weights()


def reference_network() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for k, parameter in enumerate(network.parameters()):
            parameter.copy_(sines(1.0, 0.4 + 0.1 * k, parameter.shape, 0.2))
    return network


def one_step(clip: float) -> tuple[nn.Sequential, Any]:
    network = reference_network()
    optimiser = privatised(
        network, torch.optim.SGD(network.parameters(), lr=0.1), noise_multiplier=0.0, clip=clip, batch_size=6
    )
    labels = torch.tensor(REFERENCE["labels"])
    nn.functional.cross_entropy(network(sines(3.0, 0.35, (6, 4))), labels).backward()
    return network, optimiser


def test_one_step_is_the_reference_one() -> None:
    network, optimiser = one_step(REFERENCE["max_grad_norm"])
    per_sample = torch.cat([p.grad_sample.flatten(1) for p in network.parameters()], dim=1)
    norms = per_sample.norm(dim=1)
    assert norms.tolist() == pytest.approx(REFERENCE["per_sample_norms"], abs=1e-5)
    assert (1 / (norms + 1e-6)).clamp(max=1).tolist() == pytest.approx(REFERENCE["clip_factors"], abs=1e-6)
    optimiser.step()
    weights, bias = network[0].weight, network[2].bias
    assert bias.grad.tolist() == pytest.approx(REFERENCE["grad_b1_after_clip"], abs=1e-6)
    assert bias.tolist() == pytest.approx(REFERENCE["b1_after_step"], abs=1e-6)
    assert weights[0].tolist() == pytest.approx(REFERENCE["w0_row0_after_step"], abs=1e-6)


def test_the_clipping_norm_changes_the_gradients() -> None:
    gradients = []
    for clip in (1.0, 3.0, 1e6):
        network, optimiser = one_step(clip)
        optimiser.step()
        gradients.append(network[2].bias.grad.clone())
    plain = reference_network()
    labels = torch.tensor(REFERENCE["labels"])
    nn.functional.cross_entropy(plain(sines(3.0, 0.35, (6, 4))), labels).backward()
    assert torch.allclose(gradients[2], plain[2].bias.grad)  # a norm that clips nothing: the plain gradient
    assert not torch.allclose(gradients[0], gradients[1])


def test_the_memory_layout_of_images_and_weights_changes_nothing() -> None:
    """opacus misreads channels_last images, and fused optimisers pair weights with gradients by address."""
    updated = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2)).to(memory_format=layout)
        images, labels = torch.rand(4, 8, 3, 3).contiguous(memory_format=layout), torch.tensor([0, 1, 1, 0])
        alone = [nn.functional.cross_entropy(network(images[i : i + 1]), labels[i : i + 1]) for i in range(4)]
        expected = torch.stack([torch.autograd.grad(loss, network[0].weight)[0] for loss in alone])
        plain = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9, fused=True)
        optimiser = privatised(network, plain, noise_multiplier=0.0, clip=0.5, batch_size=4)
        for step in range(2):
            nn.functional.cross_entropy(network(images), labels).backward()
            assert step or torch.allclose(network[0].weight.grad_sample, expected, atol=1e-6)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        updated.append(network[0].weight.detach().clone())
    assert torch.allclose(updated[0], updated[1], atol=1e-6)


QUICK = {("B256,30 epochs", "rdp"), ("B1024,50 epochs", "rdp"), ("B1024,50 epochs", "prv")}  # at an epsilon of 8
CASES = [
    pytest.param(
        case,
        name,
        id=f"{case['setting']}-{case['epsilon']}-{name}",
        marks=[] if case["epsilon"] == 8 and (case["setting"], name) in QUICK else pytest.mark.slow,
    )
    for case in REFERENCE["noise_for_15000_images"]
    for name in ("rdp", "prv")
    if f"sigma_{name}" in case
]


@pytest.mark.parametrize(("case", "name"), CASES)
def test_the_noise_keeps_the_asked_for_epsilon_and_wastes_less_than_a_hundredth(
    case: dict[str, Any], name: str
) -> None:
    rate = (256 if case["setting"].startswith("B256") else 1024) / 15000
    assert rate == pytest.approx(case["q"], abs=1e-6)
    spent = budget(case["epsilon"], case["delta"], rate=rate, steps=case["steps"], accountant=name)
    assert 0.99 * case["epsilon"] <= spent.epsilon <= case["epsilon"]
    assert spent.noise_multiplier == pytest.approx(case[f"sigma_{name}"], rel=0.01)
    assert spent.accountant == name


def test_where_one_accountant_fails_the_other_one_is_used_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.accountants import PRVAccountant

    def failing(self: object, *arguments: object, **named: object) -> float:
        raise ValueError("discretisation")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", failing)
    assert budget(8, 1e-5, rate=0.02, steps=100, accountant="prv").accountant == "rdp"


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(MibenchError, match=r"no noise keeps 10000 steps at rate 1 within epsilon 1e-06.*raise defence"):
        budget(1e-6, 1e-9, rate=1.0, steps=10000, accountant="rdp")


def made_hooks(monkeypatch: pytest.MonkeyPatch) -> list[PrivateHooks]:
    made: list[PrivateHooks] = []

    class Kept(PrivateHooks):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(dp_sgd, "PrivateHooks", Kept)
    return made


def test_batches_are_poisson_samples(public: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_hooks(monkeypatch)
    train_tiny(HEAD, initial=public, **PRIVATE)
    (hooks,) = made
    hooks.task = type(hooks.task)(
        **{**vars(hooks.task), "steps_per_epoch": 400, "streams": Streams(1)}
    )  # the same training, with more steps to look at
    batches = hooks.batches(0)
    sizes = torch.tensor([len(batch) for batch in batches]).double()
    assert hooks.rate == 0.5
    assert sizes.mean().item() == pytest.approx(36, abs=1.5)
    assert sizes.var().item() == pytest.approx(18, rel=0.5)  # N q (1 - q); of fixed batches it is 0
    times = torch.bincount(torch.cat([*batches]), minlength=72).double() / 400
    assert (times - 0.5).abs().max() < 0.13  # everybody equally often: five standard errors
    assert all(len(batch.unique()) == len(batch) for batch in batches)


def test_only_the_classifier_is_trained_and_no_statistic_moves(public: dict[str, torch.Tensor]) -> None:
    trained = train_tiny(HEAD, initial=public, learning_rate=1.0, **PRIVATE)
    for key, value in public.items():
        assert torch.equal(trained.weights[key], value), key
    plain = train_tiny(HEAD, initial=public, learning_rate=1e-30, **PRIVATE)
    assert not torch.equal(trained.weights["fc_layer.weight"], plain.weights["fc_layer.weight"])


@pytest.mark.parametrize("defence", [HEAD, ALL], ids=["head", "all"])
def test_noise_and_clipping_reach_the_training(
    defence: DPSGD, public: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accountant's noise, and not another amount: without it the epsilon on the card would be a claim."""
    made = made_hooks(monkeypatch)
    changes: tuple[dict[str, float], ...] = ({}, {"epsilon": 80.0}, {"max_grad_norm": 0.1})
    trained = [train_tiny(replace(defence, **change), initial=public, **PRIVATE) for change in changes]
    for hooks, change in zip(made, changes, strict=True):
        optimiser = hooks.optimiser
        assert optimiser.noise_multiplier == hooks.budget.noise_multiplier > 0
        assert optimiser.max_grad_norm == change.get("max_grad_norm", 1.0)
        assert optimiser.expected_batch_size == PRIVATE["batch_size"]
    assert not same_weights(trained[0], trained[1])
    assert not same_weights(trained[0], trained[2])


def test_norms_of_the_frozen_part_are_never_in_training_mode() -> None:
    """In training mode they would pass opacus's validator and take up statistics of private images."""
    network = VGG16(num_classes=3, width=1 / 16, size=32).train()
    PrivateHooks.train_mode(SimpleNamespace(defence=HEAD), network)  # type: ignore[arg-type]
    assert network.fc_layer.training
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert not any(module.training for module in norms)


def test_features_are_those_of_the_plain_images(public: dict[str, torch.Tensor], monkeypatch) -> None:
    made = made_hooks(monkeypatch)
    train_tiny(HEAD, initial=public, **PRIVATE)
    (hooks,) = made
    network = VGG16(num_classes=CLASSES, width=1 / 16, size=32)
    network.load_state_dict(public, strict=False)
    with torch.no_grad():
        expected = network.eval()(hooks.task.images(torch.arange(5))).features
    assert torch.allclose(hooks.inputs(torch.arange(5)), expected, atol=1e-5)


def test_the_card_says_what_was_spent(public: dict[str, torch.Tensor]) -> None:
    measured = train_tiny(HEAD, initial=public, **PRIVATE).measured
    assert 0.99 * 8 <= measured["epsilon"] <= 8
    assert (measured["delta"], measured["sampling_rate"], measured["steps"]) == (1e-3, 0.5, 2)
    assert measured["accountant"] == "rdp"
    assert measured["noise_multiplier"] > 0
    assert "not those that tuned" in measured["privacy_note"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_everything_trained_no_batch_norm_is_left(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if precision == "bfloat16":
        from mibench.targets.training import defended, supervised

        bfloat16 = lambda context: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
        monkeypatch.setattr(supervised, "autocast", bfloat16)
        monkeypatch.setattr(defended, "autocast", bfloat16)
    trained = train_tiny(ALL, **PRIVATE)
    assert trained.architecture == "vgg16_gn"
    network = registry.load("target", trained.architecture)(**trained.arguments)
    network.load_state_dict(trained.weights)
    assert not [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not list(network.buffers())
    assert not any(m.inplace for m in network.modules() if isinstance(m, nn.ReLU))
    still = train_tiny(ALL, learning_rate=1e-30, **PRIVATE)
    for key in ("feature.0.weight", "feature.41.weight", "bn.weight", "fc_layer.bias"):
        assert not torch.equal(trained.weights[key], still.weights[key]), key
    assert torch.equal(trained.weights["bn.bias"], still.weights["bn.bias"])  # not trained in the published network


@pytest.mark.parametrize("kind", [VGG16, IR152])
def test_group_norms_are_those_of_opacus(kind: type[nn.Module]) -> None:
    from opacus.validators import ModuleValidator

    network = kind(num_classes=2, width=0.25)
    theirs = ModuleValidator.fix(copy.deepcopy(network))
    without_batch_norm(network)
    assert not ModuleValidator.validate(network, strict=False)

    def norms(of: nn.Module) -> list[tuple[str, int, int]]:
        return [(n, m.num_groups, m.num_channels) for n, m in of.named_modules() if isinstance(m, nn.GroupNorm)]

    assert norms(network)
    assert norms(network) == norms(theirs)


def test_a_narrow_vector_is_not_erased() -> None:
    network = VGG16(num_classes=2, width=1 / 16, size=32)  # 32 features: 32 groups of one would make zeros of them
    without_batch_norm(network)
    features = network(torch.rand(3, 3, 32, 32)).features
    assert features.std(dim=1).min() > 0.1


@pytest.mark.parametrize("defence", [HEAD, ALL], ids=["head", "all"])
def test_a_resumed_training_equals_an_uninterrupted_one(defence: DPSGD, public: dict[str, torch.Tensor]) -> None:
    settings = {**PRIVATE, "epochs": 2, "initial": public}
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(defence, checkpoint=stopped, **settings)
    assert same_weights(train_tiny(defence, **settings), train_tiny(defence, checkpoint=stopped, **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0}, "defence.epsilon must be a positive number"),
        ({"epsilon": math.nan}, "defence.epsilon must be a positive number"),
        ({"delta": 1}, "defence.delta must lie between 0 and 1"),
        ({"max_grad_norm": -1}, "defence.max_grad_norm must be a positive number"),
        ({"accountant": "gdp"}, "choose one of prv, rdp"),
        ({"trained": "body"}, "choose one of head, all"),
        ({"trained": "all", "public": "x"}, "training starts from scratch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        DPSGD(**settings).check()


def test_trainings_that_could_not_be_private_are_refused(public: dict[str, torch.Tensor]) -> None:
    with pytest.raises(MibenchError, match=r"train.batch_size must be 32 or more under dp-sgd, got 12"):
        train_tiny(HEAD, initial=public)
    with pytest.raises(MibenchError, match=r"defence.delta must be below 1 / 72"):
        train_tiny(DPSGD(delta=0.1), initial=public, **PRIVATE)
    with pytest.raises(MibenchError, match=r"the defence 'dp-sgd' holds alone only"):
        mibench.train("target", "vgg16", defences=["dp-sgd", "midre"], device="cpu")


def test_without_opacus_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MibenchError, match=r'pip install "mibench\[dp\]"'):
        DPSGD().check()


def test_both_kinds_load_back_from_their_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    world = {"dataset.identities": 6, "dataset.public_identities": 12, "dataset.public_images": 60}
    tiny = {"train.width": 0.0625, "train.epochs": 1, "train.size": 32, **world}
    private = {**tiny, "train.batch_size": 64, "defence.accountant": "rdp"}
    mibench.train("backbone", "vgg16", settings=tiny, device="cpu")
    for trained, tag in (("head", "dp-head"), ("all", "dp-all")):
        settings = {**private, "defence.trained": trained}
        card = mibench.train(
            "target", "vgg16", defences="dp-sgd", twin="none", tag=tag, settings=settings, device="cpu"
        ).card
        assert card.defence is not None
        assert card.defence.settings["dp-sgd"]["trained"] == trained
        network, _ = build_network(find("target", f"vgg16+{tag}", "synthfaces"))
        assert network(torch.rand(2, 3, 32, 32)).logits.shape == (2, 6)
