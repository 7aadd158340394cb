"""MID: reference vectors, which network is trained, noise in training and not in evaluation, both accuracies."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from defended import CLASSES, VECTORS, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import Tensor, nn

import mibench
from mibench import registry
from mibench.api import Access, Batch, ClassifierOutput, MibenchError
from mibench.targets.defences import mid
from mibench.targets.defences.mid import MID, BottleneckHooks, divergence
from mibench.targets.networks import bottleneck
from mibench.targets.networks.bottleneck import code, mean_and_spread
from mibench.targets.networks.vgg16_mid import VGG16MID
from mibench.weights.cards import find
from mibench.weights.defences import check_compatible
from mibench.weights.load import build_network, build_victim

REFERENCE = VECTORS["vib"]
SMALL = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 10, "dataset.train_images": 8}


def statistics() -> Tensor:
    """``s`` of the reference, ``(3, 8)``."""
    return sines(3.0, 0.5, (3, 8))


def test_mean_spread_and_divergence_are_the_reference_ones() -> None:
    mean, spread = mean_and_spread(statistics())
    assert torch.equal(mean, statistics()[:, :4])
    for row, expected in zip(spread, REFERENCE["std"], strict=True):
        assert row.tolist() == pytest.approx(expected, abs=1e-6)
    assert divergence(statistics()).tolist() == pytest.approx(REFERENCE["kl_per_sample"], abs=1e-5)


def test_the_loss_is_the_reference_one() -> None:
    logits, labels = sines(1.0, 0.4, (3, 4)), torch.tensor(REFERENCE["labels"])
    entropy = nn.functional.cross_entropy(logits, labels)
    assert entropy.item() == pytest.approx(REFERENCE["ce"], abs=1e-6)
    hooks = BottleneckHooks(REFERENCE["beta"], 0.0)
    batch = Batch(images=torch.zeros(3, 3, 1, 1), labels=labels, step=0, epoch=0, plain=3)
    terms = hooks.penalties(ClassifierOutput(logits, logits), {"st_layer": statistics()}, batch)
    assert (entropy + terms["bottleneck"]).item() == pytest.approx(REFERENCE["total"], abs=1e-6)


def test_the_head_is_the_reference_one(monkeypatch: pytest.MonkeyPatch) -> None:
    head, k = REFERENCE["head"], REFERENCE["head"]["k"]
    st_layer, fc_layer = nn.Linear(2 * k, 2 * k).double(), nn.Linear(k, 3).double()
    for layer, rates in ((st_layer, (0.3, 0.4)), (fc_layer, (0.5, 0.6))):
        layer.weight.data = sines(1.0, rates[0], layer.weight.shape)
        layer.bias.data = sines(1.0, rates[1], layer.bias.shape)
    found = st_layer(sines(1.0, 0.2, (2, 2 * k)))
    monkeypatch.setattr(bottleneck.torch, "randn_like", lambda mean: sines(1.0, 0.9, mean.shape, 0.3))
    mean, spread = mean_and_spread(found)
    for name, values in (("mu", mean), ("std", spread), ("logits", fc_layer(code(found, drawn=True)))):
        for row, expected in zip(values, head[name], strict=True):
            assert row.tolist() == pytest.approx(expected, abs=1e-6), name


def test_the_divergence_is_that_of_torch_and_survives_tiny_spreads() -> None:
    from torch.distributions import Normal, kl_divergence

    values = 4 * torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, spread = mean_and_spread(values)
    expected = kl_divergence(Normal(mean, spread), Normal(0, 1)).sum(dim=1)
    assert torch.allclose(divergence(values), expected)
    extreme = torch.tensor([[0.0, 0.0, -300.0, 300.0]], requires_grad=True)  # softplus(-305) is 0 in float32
    kl = divergence(extreme)
    assert kl.item() == pytest.approx(304.5 - 0.5 * (1 + 2 * math.log(295) - 295**2), rel=1e-7)
    kl.sum().backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()
    assert extreme.grad[0, 2] < 0, "a spread of nothing is pulled up"
    floored = divergence(statistics(), 1e-7)
    assert not torch.equal(floored, divergence(statistics()))
    assert torch.allclose(floored, divergence(statistics()), rtol=1e-3)


def test_the_sum_over_the_code_grows_with_its_width() -> None:
    narrow = torch.cat([torch.ones(2, 4), torch.zeros(2, 4)], dim=1)
    wide = torch.cat([torch.ones(2, 16), torch.zeros(2, 16)], dim=1)
    assert torch.allclose(divergence(wide), 4 * divergence(narrow))


@pytest.mark.parametrize("name", ["vgg16", "ir152", "facenet64"])
def test_the_trained_network_is_the_one_with_a_bottleneck(name: str) -> None:
    check_compatible([MID()], name)
    built, arguments = MID(sample=True).architecture(name, {"width": 0.0625, "size": 64})
    network = registry.load("target", built)(num_classes=5, **arguments).eval()
    plain = registry.load("target", name)(num_classes=5, width=0.0625, size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        one, other = network(images), network(images)
        features = plain(images).features.shape[1]
        network.sample = False
        assert torch.equal(network(images).logits, network(images).logits)
    assert torch.equal(one.features, other.features)
    assert not torch.equal(one.logits, other.logits)
    assert one.features.shape[1] == features
    assert network.fc_layer.in_features == features // 2
    assert not hasattr(network, "bn")


def test_the_toolbox_variant_keeps_the_batch_norm_of_vgg16_only() -> None:
    name, arguments = MID(batch_norm=True).architecture("vgg16", {"width": 0.0625})
    network = registry.load("target", name)(num_classes=5, **arguments)
    outputs: list[Tensor] = []
    network.bn.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    assert torch.equal(network.eval()(torch.rand(2, 3, 64, 64)).features, outputs[0])
    assert not network.bn.bias.requires_grad
    with pytest.raises(MibenchError, match=r"defence.batch_norm is for vgg16.*ir152 has none to keep"):
        MID(batch_norm=True).architecture("ir152", {})


def test_mid_applies_to_its_three_networks_only() -> None:
    with pytest.raises(MibenchError, match=r"'mid' does not apply to resnet18; choose one of vgg16, ir152, facenet64"):
        check_compatible([MID()], "resnet18")


def test_training_draws_one_noise_per_sample_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    original = torch.randn_like

    def watched(mean: Tensor) -> Tensor:
        drawn.append(original(mean))
        return drawn[-1]

    monkeypatch.setattr(bottleneck.torch, "randn_like", watched)
    train_tiny(MID(), epochs=1)
    steps = [noise for noise in drawn if len(noise) == 12]
    assert len(steps) == 6
    assert not any(torch.equal(one, other) for one, other in pairwise(steps))
    assert steps[0].unique().numel() == steps[0].numel()


def test_the_penalty_reaches_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    records: dict[float, list[dict[str, float]]] = {}
    for beta in (1e-9, 0.1):
        records[beta] = []
        trained = train_tiny(MID(beta=beta), epochs=4, log=lambda beta=beta, **record: records[beta].append(record))
        assert trained.architecture == "vgg16_mid"
    divergences = {beta: found[-1]["train_bottleneck"] / beta for beta, found in records.items()}
    assert divergences[0.1] < divergences[1e-9]
    variants = [MID(), MID(beta=0.01), MID(log_floor=1e-3), MID(batch_norm=True)]
    weights = [train_tiny(variant, epochs=1) for variant in variants]
    for index, one in enumerate(weights):
        assert not any(same_weights(one, other) for other in weights[:index])


def test_evaluation_answers_twice_alike_and_the_card_has_both_accuracies() -> None:
    mean, drawn = train_tiny(MID()), train_tiny(MID(sample=True))
    assert same_weights(mean, drawn), "what evaluation answers changes no training"
    assert mean.arguments["sample"] is False
    assert mean.measured["test_accuracy"] == drawn.measured["test_accuracy_mean"]
    assert mean.measured["test_accuracy_sampled"] == drawn.measured["test_accuracy"]
    assert "test_accuracy_mean" not in mean.measured
    assert train_tiny(MID(sample=True)).measured == drawn.measured, "seeded, so that the card repeats"
    assert not any(name.startswith("test_accuracy_") for name in train_tiny(MID(beta=0.0)).measured)


def test_the_accuracy_of_sampled_codes_is_that_of_a_network_that_draws() -> None:
    network = VGG16MID(CLASSES, 1 / 16, size=32).eval()
    with torch.no_grad():
        network.st_layer.bias[len(network.st_layer.bias) // 2 :] = 100.0  # a spread of 95
    other = MID().other_answers(network)["sampled"]
    images = torch.rand(4, 3, 32, 32)
    assert not network.sample
    assert torch.equal(network(images).logits, network(images).logits)
    assert not torch.equal(other(images).logits, other(images).logits)


def test_only_training_images_under_their_own_labels_count() -> None:
    batch = Batch(images=torch.zeros(3, 3, 1, 1), labels=torch.arange(3), step=0, epoch=0, plain=2)
    hooks = MID(beta=1.0).hooks(nn.Identity(), None)  # type: ignore[arg-type]
    terms = hooks.penalties(ClassifierOutput(batch.images, batch.images), {"st_layer": statistics()}, batch)
    assert terms["bottleneck"].item() == pytest.approx(sum(REFERENCE["kl_per_sample"][:2]) / 2, abs=1e-4)


def test_a_resumed_training_equals_an_uninterrupted_one() -> None:
    whole = train_tiny(MID())
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(MID(), checkpoint=stopped)
    resumed = train_tiny(MID(), checkpoint=stopped)
    assert same_weights(whole, resumed)
    assert whole.measured == resumed.measured


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"beta": -0.1}, "beta must be finite and not negative"),
        ({"beta": math.inf}, "beta must be finite"),
        ({"log_floor": 1.0}, "log_floor must lie in"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, float], line: str) -> None:
    with pytest.raises(MibenchError, match=line):
        MID(**settings).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", ["mid", "mid:drawn"])
def test_the_card_has_every_setting_and_the_network_loads(preset: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    drawn = preset == "mid:drawn"
    card = mibench.train(
        "target", "vgg16", defences=preset, twin="none", tag="again", settings=SMALL, device="cpu"
    ).card
    assert (card.name, card.architecture) == ("vgg16@synthfaces+again", "vgg16_mid")
    assert card.defence is not None
    assert card.defence.settings["mid"] == {"beta": 0.003, "sample": drawn, "batch_norm": False, "log_floor": 0.0}
    assert card.measured is not None
    assert 0 <= card.measured["test_accuracy_mean" if drawn else "test_accuracy_sampled"] <= 1
    network, _ = build_network(find("target", "vgg16+again", "synthfaces"))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network(images).logits, network(images).logits) is not drawn
    victim = build_victim(find("target", "vgg16+again", "synthfaces"), Access.GRADIENTS, torch.device("cpu"))
    assert victim.scores(images).shape == (2, 10)


def test_the_released_floor_is_the_one_that_the_error_names() -> None:
    with pytest.raises(MibenchError, match="1e-07 is released"):
        MID(log_floor=2.0).check()
    assert mid.LOG_FLOOR == 1e-7
