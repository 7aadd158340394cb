"""Filters with weights of their own: vectors, what they learn, and how they are stored and act with their target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import toyworld
from defended import VECTORS, sines
from safetensors.torch import load_file
from torch import Tensor
from toyworld import build
from toyworld.data import ToyFaces

import mibench
from mibench import registry
from mibench.api import Access, AccessError, AnswerFilter, Card, FilteredAnswers, MibenchError, ReferenceAnswers
from mibench.targets.defences.answer_filters import Rounding, Temperature
from mibench.targets.defences.inversion_noise import (
    InversionNoise,
    Inverter,
    bounded_noise,
    inversion_loss,
)
from mibench.targets.defences.purifier import Purifier, PurifyingNetwork, purifying_loss
from mibench.weights.answer_filters import apart, build_answers, own_weights
from mibench.weights.cards import find, write_card
from mibench.weights.load import build_network, build_victim, load_weights, stored_tensors

CPU = torch.device("cpu")
FAST = {"images": 24, "epochs": 4, "batch_size": 8}


# ---------------------------------------------------------------- inversion noise


def reference_noise(bound: float) -> list[float]:
    given = VECTORS["purifier_noise"]
    logits, gradient = sines(2, 0.9, (1, 5), 0.4), sines(1, 1.7, (1, 5))
    noise: list[float] = bounded_noise(logits, logits, gradient, step=given["eta"], bound=bound)[0].tolist()
    return noise


def test_the_noise_is_the_reference_one() -> None:
    given = VECTORS["purifier_noise"]
    assert reference_noise(given["eps"]) == pytest.approx(given["noise"], abs=1e-6)
    assert reference_noise(10) == pytest.approx(given["noise_eps10"], abs=1e-6)


@pytest.mark.parametrize("bound", [0.1, 3.0, 1e9])
def test_the_label_keeps_the_largest_logit_and_the_change_its_bound(bound: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, moved, gradient = (torch.randn(50, 7, generator=generator) for _ in range(3))
    noise = bounded_noise(logits, logits + moved, gradient, step=2.0, bound=bound)
    assert (noise.abs().sum(dim=1) <= bound * (1 + 1e-5)).all()
    kept = (logits + noise).gather(1, logits.argmax(dim=1, keepdim=True))
    assert (kept.squeeze(1) >= (logits + noise).amax(dim=1) - 1e-5).all()


def reference(count: int = 24, classes: int = 6) -> ReferenceAnswers:
    """Images of one colour each, and scores that tell it."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (count, 3, 1, 1), generator=generator, dtype=torch.uint8)
    logits = colours.flatten(1).float() @ torch.randn(3, classes, generator=generator) / 128
    return ReferenceAnswers(images=colours.expand(-1, -1, 8, 8), scores=logits.softmax(dim=1), device=CPU)


def test_an_inverter_learns_to_draw_and_its_noise_makes_it_draw_worse() -> None:
    given, settings = reference(), InversionNoise(images=24, epochs=60, batch_size=8, bound=6.0)
    shown = given.images.float() / 255
    inverter = Inverter(6)
    before = inversion_loss(settings.network(6), given.scores, shown).mean()
    weights = settings.learn(given)
    inverter.load_state_dict(weights)
    after = inversion_loss(inverter, given.scores, shown).mean()
    assert after < before / 2
    acting = settings.with_weights(weights)
    answered = acting.scores(given.scores, shown)
    assert inversion_loss(inverter, answered, shown).mean() > after
    kept = answered.gather(1, given.scores.argmax(dim=1, keepdim=True)).squeeze(1)
    assert (kept >= answered.amax(dim=1) - 1e-6).all()  # others may draw level
    assert torch.allclose(answered.sum(dim=1), torch.ones(24))
    alone = torch.cat([acting.scores(given.scores[row : row + 1], shown[row : row + 1]) for row in range(24)])
    assert torch.allclose(alone, answered, atol=1e-6)  # no answer depends on its batch


@pytest.mark.parametrize("off", [{"step": 0.0}, {"bound": 0.0}])
def test_noise_that_is_off_leaves_the_answers_as_they_are_to_the_bit(off: dict[str, float]) -> None:
    given, settings = reference(), InversionNoise(**FAST, **off)
    acting = settings.with_weights(settings.learn(given))
    assert torch.equal(acting.scores(given.scores, given.images.float() / 255), given.scores)


def test_more_steps_go_further_along_the_inverters_loss() -> None:
    given = reference()
    shown, losses = given.images.float() / 255, []
    for steps in (1, 6):
        settings = InversionNoise(images=24, epochs=60, batch_size=8, bound=1e9, step=0.1, steps=steps)
        weights = settings.learn(given)
        inverter = Inverter(6)
        inverter.load_state_dict(weights)
        answered = settings.with_weights(weights).scores(given.scores, shown)
        losses.append(inversion_loss(inverter, answered, shown).mean().item())
    assert losses[1] > losses[0]


# ---------------------------------------------------------------- purifier


def test_the_purifiers_loss_is_cross_entropy_of_the_label_and_lambda_times_the_squared_distance() -> None:
    q, p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    expected = (-torch.tensor([0.5, 0.2]).log() + 3 * torch.tensor([0.06, 0.62])).mean()
    assert purifying_loss(q.log(), p, 3.0).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("residual", [False, True])
def test_a_purifier_learns_to_keep_labels_and_scores(residual: bool) -> None:
    given = reference(200)
    settings = Purifier(images=200, epochs=150, batch_size=25, residual=residual)
    before = purifying_loss(settings.network(6)(given.scores), given.scores, settings.weight)
    acting = settings.with_weights(settings.learn(given))
    answered = acting.scores(given.scores, given.images.float() / 255)
    assert purifying_loss(answered.log(), given.scores, settings.weight) < before
    assert (answered.argmax(dim=1) == given.scores.argmax(dim=1)).float().mean() > 0.9
    assert torch.allclose(answered.sum(dim=1), torch.ones(200), atol=1e-6)
    assert not torch.equal(answered, given.scores)


def test_everything_passes_through_the_hidden_units_unless_the_change_is_added() -> None:
    scores = torch.rand(4, 6).softmax(dim=1)
    for residual in (False, True):
        network = PurifyingNetwork(6, hidden=2, embedding=3, residual=residual)
        torch.nn.init.zeros_(network.outer.weight)
        torch.nn.init.zeros_(network.outer.bias)
        expected = scores if residual else torch.full((4, 6), 1 / 6)
        assert torch.allclose(network(scores).exp(), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [Purifier(**FAST), InversionNoise(**FAST)], ids=lambda one: one.name)
def test_what_a_filter_learns_is_the_same_every_time_and_is_checked(settings: AnswerFilter) -> None:
    first, again = settings.learn(reference()), settings.learn(reference())
    assert all(torch.equal(first[key], again[key]) for key in first)
    with pytest.raises(MibenchError, match=f"weights of the filter '{settings.name}' do not fit"):
        settings.with_weights(
            {key: value for key, value in first.items() if not key.endswith("0.bias")} | {"x": value()}
        )
    with pytest.raises(MibenchError, match="has no weights yet"):
        settings.scores(reference().scores, reference().images.float())


def value() -> Tensor:
    return torch.zeros(1)


# ---------------------------------------------------------------- with a target


@pytest.fixture
def filtering(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world, in which these filters are installed."""
    kinds = (Temperature, Rounding, Purifier, InversionNoise)
    catalogue = {"defence": {kind.name: f"{kind.__module__}:{kind.__qualname__}" for kind in kinds}}
    monkeypatch.setattr(toyworld, "LEARNT", catalogue, raising=False)
    monkeypatch.setattr(build, "POINTS", (*build.POINTS, EntryPoint("learnt", "toyworld:LEARNT", registry.GROUP)))
    registry.catalogue.cache_clear()
    return toy


def filtered(*names: str, **settings: object) -> Card:
    given: Mapping[str, object] = {f"defence.{key}": value for key, value in settings.items()}
    return mibench.train("target", "toynet", dataset="toyfaces", defences=names, settings=given, device="cpu").card


@pytest.mark.parametrize("name", ["purifier", "inversion-noise"])
def test_the_weights_of_a_filter_lie_with_the_targets_and_its_victim_answers_through_them(
    name: str, filtering: Path
) -> None:
    twin, card = find("target", "toynet", "toyfaces"), filtered(name, **FAST)
    file = find("target", f"toynet+{name}", "toyfaces")
    network, own = apart(stored_tensors(file))
    assert set(own) == {name}
    before = load_file(twin.weights_path)
    assert network.keys() == before.keys()
    assert all(torch.equal(network[key], before[key]) for key in before)
    assert (card.weights.sha256 == twin.card().weights.sha256, card.access) == (False, "scores")
    assert card.defence is not None
    assert card.defence.twin_sha256 == twin.card().weights.sha256
    assert card.measured is not None
    assert {"test_accuracy", "answer_accuracy", "answer_distortion"} <= set(card.measured)
    behind, plain = build_victim(file, Access.SCORES, CPU), build_victim(twin, Access.GRADIENTS, CPU)
    shown = ToyFaces().private("test", plain.image.size).floats()
    assert not torch.equal(behind.scores(shown), plain.scores(shown))
    assert torch.equal(behind.labels(shown), plain.labels(shown))
    expected = build_answers(card, {name: own[name]})
    assert expected is not None
    assert torch.equal(behind.scores(shown), expected(plain.logits(shown), shown))
    with pytest.raises(AccessError, match="bypasses"):
        build_victim(file, Access.GRADIENTS, CPU)
    assert build_network(file)[0].state_dict().keys() == build_network(twin)[0].state_dict().keys()


def test_a_filter_learns_what_the_filters_before_it_leave(filtering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ReferenceAnswers] = []
    learn = Purifier.learn
    monkeypatch.setattr(Purifier, "learn", lambda self, given: (seen.append(given), learn(self, given))[1])
    filtered("purifier", "temperature", "rounding", **{"temperature.tau": 3.0, "purifier.images": 10})
    twin = build_victim(find("target", "toynet", "toyfaces"), Access.GRADIENTS, CPU)
    public = ToyFaces().public(twin.image.size, 10).pixels
    assert torch.equal(seen[0].images, public)
    shown = public.float() / 255
    expected = FilteredAnswers([Temperature(tau=3.0)])(twin.logits(shown), shown)
    assert torch.allclose(seen[0].scores, expected, atol=1e-6)


def test_a_run_and_a_trained_defence_take_the_filters_weights_along(filtering: Path, tmp_path: Path) -> None:
    settings = {**{f"defence.{key}": value for key, value in FAST.items()}}
    card = mibench.train(
        "target", "toynet", dataset="toyfaces", defences="purifier", twin="toynet", settings=settings, device="cpu"
    ).card
    run = mibench.run("floor", target="toynet+purifier", dataset="toyfaces", protocol="toy", device="cpu", out=tmp_path)
    assert run.specification["target"]["sha256"] == card.weights.sha256
    assert set(run.specification["target"]["filters"]) == {"purifier"}


def test_a_target_without_its_filters_weights_is_refused(filtering: Path) -> None:
    card = filtered("purifier", **FAST)
    with pytest.raises(MibenchError, match="lack those of its filter 'purifier'"):
        build_answers(card, {})
    answers = build_answers(card)
    assert answers is not None
    assert answers.grants is Access.SCORES  # known without them


def test_a_filter_that_the_card_does_not_name_is_not_passed_over(filtering: Path) -> None:
    card = filtered("purifier", **FAST)
    assert card.defence is not None
    write_card(replace(card, access="gradients", defence=None), filtering / "cards")
    with pytest.raises(MibenchError, match="hold those of a filter 'purifier', which its card does not name"):
        build_victim(find("target", "toynet+purifier", "toyfaces"), Access.GRADIENTS, CPU)


def test_weights_are_told_apart_by_their_keys() -> None:
    network, learnt = {"a.b": value()}, {"purifier": {"c.d": value(), "e/f": value()}}
    assert apart({**network, **own_weights(learnt)}) == (network, learnt)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (Purifier(weight=-1.0), "defence.weight must be finite"),
        (Purifier(hidden=0), "defence.hidden must be 1 or more"),
        (Purifier(seed=-1), "defence.seed must be 0 or more"),
        (InversionNoise(step=float("nan")), "defence.step must be finite"),
        (InversionNoise(bound=-1.0), "defence.bound must be finite"),
        (InversionNoise(steps=0), "defence.steps must be 1 or more"),
        (InversionNoise(images=0), "defence.images must be 1 or more"),
        (InversionNoise(seed=-1), "defence.seed must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: AnswerFilter, line: str) -> None:
    with pytest.raises(MibenchError, match=line):
        wrong.check()


def test_the_doctor_reads_weights_with_those_of_a_filter(filtering: Path) -> None:
    filtered("purifier", **FAST)
    assert any(
        key.startswith("filter:purifier/") for key in load_weights(find("target", "toynet+purifier", "toyfaces"))
    )
