"""Adaptive attacks that defences declare, and suites that run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toyworld.data import ToyFaces

from mibench import registry
from mibench.api import Defence, MibenchError
from mibench.attacks.answers import confidence_in_classes
from mibench.attacks.neighbours import averaged_answers, neighbour
from mibench.sweeps.adaptive import declared_attacks, resolved_attack
from mibench.sweeps.suite import Suite, parse_suite
from mibench.targets.defences.answer_filters import Noise

DEFENCES = [name for name in registry.names("defence") if name != "none"]


def suite(**fields: Any) -> Suite:
    given = {"attacks": ["floor", "ppa"], "targets": ["vgg16"], "adaptive": True, **fields}
    return parse_suite(given, "s.yaml", "s")


def cells(made: Suite) -> set[tuple[str, str]]:
    return {(cell.label, str(cell.request.target)) for cell in made.cells}


@pytest.mark.parametrize("name", DEFENCES)
def test_every_attack_that_a_defence_declares_is_there(name: str) -> None:
    kind: type[Defence] = registry.load("defence", name)
    assert bool(kind.adaptive) != kind.control
    for attack in kind.adaptive:
        adapted, plain = resolved_attack(attack), resolved_attack(attack.partition(":")[0])
        assert adapted.recorded_settings() != plain.recorded_settings()
        assert adapted.name == plain.name
    if not kind.control:
        assert any(resolved_attack(attack).needs_surrogate == "twin" for attack in kind.adaptive)


def test_without_the_key_a_suite_is_what_it_was() -> None:
    assert cells(suite(adaptive=False, defences=["none", "negls"])) == {
        (attack, target) for attack in ("floor", "ppa") for target in ("vgg16", "vgg16+negls")
    }
    with pytest.raises(MibenchError, match="expected true or false, got 3"):
        suite(adaptive=3)


def test_defences_get_their_own_and_the_twin_gets_all_but_transfers() -> None:
    made = cells(suite(defences=["none", "negls", "trap-mid"]))
    added = made - cells(suite(adaptive=False, defences=["none", "negls", "trap-mid"]))
    assert added == {
        *((attack, "vgg16+negls") for attack in ("ppa:margin", "ppa:scaled", "ppa:transfer")),
        *((attack, "vgg16+trap-mid") for attack in ("ppa:views", "ppa:transfer")),
        *((attack, "vgg16") for attack in ("ppa:margin", "ppa:scaled", "ppa:views")),
    }


def test_combined_defences_get_the_union_and_strangers_nothing() -> None:
    assert declared_attacks(["negls", "trap-mid", "nobody"]) == tuple(
        dict.fromkeys(registry.load("defence", "negls").adaptive + registry.load("defence", "trap-mid").adaptive)
    )
    made = cells(suite(targets=["vgg16+negls+trap-mid", "vgg16+mine"]))
    assert ("ppa:views", "vgg16+negls+trap-mid") in made
    assert {label for label, target in made if target == "vgg16+mine"} == {"floor", "ppa"}


def test_a_cell_is_as_the_suite_s_own_cell_of_that_attack() -> None:
    own = {"attack": "ppa", "preset": "demo", "settings": {"attack": {"truncation": 0.7}}}
    made = suite(
        attacks=["floor", own], defences=["none", "negls"], seeds=[3, 4], settings={"protocol": {"samples": 2}}
    )
    added = [cell for cell in made.cells if cell.label == "ppa:margin" and cell.request.target == "vgg16+negls"]
    assert [cell.request.seed for cell in added] == [3, 4]
    for cell in added:
        assert (cell.request.attack, cell.request.preset) == ("ppa:margin", "demo")
        assert cell.request.settings == {"protocol": {"samples": 2}, "attack": {"truncation": 0.7}}
    without = suite(attacks=[{"attack": "floor", "preset": "demo", "settings": {"attack": {"pool_size": 9}}}])
    assert cells(without) == {("floor", "vgg16")}
    alone = suite(attacks=[{"attack": "floor", "preset": "demo"}], defences=["negls"])
    assert {cell.request.preset for cell in alone.cells if cell.label != "floor"} == {None}


def test_adaptive_cells_can_be_excluded_and_are_not_doubled() -> None:
    made = suite(defences=["none", "negls"], exclude=[{"attack": "ppa:scaled", "target": "vgg16"}])
    assert ("ppa:scaled", "vgg16+negls") in cells(made)
    assert ("ppa:scaled", "vgg16") not in cells(made)
    both = suite(attacks=["ppa", "ppa:margin"], defences=["negls"])
    assert [cell.label for cell in both.cells].count("ppa:margin") == 1


def test_the_card_says_what_defends_a_target(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its tag: `toynet+quiet` may be a filter around `toynet+mine`."""
    from dataclasses import replace

    from mibench.api import CardDefence
    from mibench.sweeps import adaptive
    from mibench.weights.cards import find, write_card

    twin = find("target", "toynet", ToyFaces.name).card()
    defence = CardDefence(name="hidden", settings={}, twin="toynet@toyfaces+mine")
    write_card(replace(twin, name="toynet@toyfaces+quiet", defence=defence), toy / "cards")
    write_card(replace(twin, name="toynet@toyfaces+mine"), toy / "cards")
    monkeypatch.setattr(adaptive, "declared_attacks", lambda names: ("toyattack",) if list(names) == ["hidden"] else ())
    fields = {"attacks": ["floor"], "targets": ["toynet+quiet", "toynet+mine"], "dataset": "toyfaces"}
    assert cells(suite(**fields)) == {
        *(("floor", target) for target in ("toynet+quiet", "toynet+mine")),
        *(("toyattack", target) for target in ("toynet+quiet", "toynet+mine")),
    }


# ---------------------------------------------------------------- averages over neighbours


def test_a_neighbour_differs_by_one_grey_level_and_is_an_image() -> None:
    images = torch.tensor([0.0, 1.0, 0.5, 0.3]).view(4, 1, 1, 1).expand(4, 3, 4, 4)
    for number in (0, 47):
        moved = neighbour(images, number)
        grey, before = ((each * 255).round().flatten(1) for each in (moved, images))
        assert torch.equal((grey - before).abs().sum(dim=1), torch.ones(4))
        assert torch.equal((grey != before).nonzero()[:, 1], torch.full((4,), number))
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


def test_averages_over_neighbours_remove_noise_that_hangs_on_the_image() -> None:
    from test_dmmia import CLASSES, SIZE, context

    from mibench.api import Access, FilteredAnswers, ImageSpec, Victim

    where = context(Access.SCORES)
    network, images = where.victim._network, torch.rand(32, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.head.weight *= 0.02  # scores well inside [0, 1], where no noise is clipped
        network.head.bias *= 0.02
    noise = FilteredAnswers([Noise(scale=0.02, distribution="gauss")])
    noisy = Victim(network, image=ImageSpec(SIZE), num_classes=CLASSES, access=Access.SCORES, answer=noise)
    exact = where.victim.scores((images * 255).round() / 255)
    errors = [float((averaged_answers(count)(noisy, images) - exact).square().mean().sqrt()) for count in (1, 16)]
    assert noisy.queries.forward == 17 * len(images)
    assert errors[1] < errors[0] / 2  # a quarter but for chance
    assert averaged_answers(1) is confidence_in_classes
    with pytest.raises(MibenchError, match="no 1,000 neighbours"):
        averaged_answers(1001)(noisy, images)


def test_mirror_counts_the_neighbours_that_it_shows() -> None:
    from dataclasses import replace

    from test_dmmia import LABELS, context

    from mibench.api import Access
    from mibench.attacks.mirror_b import MirrorBlack
    from mibench.rng import Streams

    configuration = MirrorBlack(
        pool_size=24, candidates=2, population=6, generations=2, stop_confidence=None, neighbours=3
    )
    where = context(Access.SCORES)
    state = configuration.prepare(where, Streams(7, ("test",)))
    assert where.victim.queries == configuration.planned_preparation()
    assert where.victim.queries.forward == 3 * replace(configuration, neighbours=1).planned_preparation().forward
    where.victim.queries.forward = 0
    result = configuration.reconstruct(where, state, LABELS, Streams(7, ("test",)))
    assert where.victim.queries == configuration.planned_queries(2)
    assert not [note for note in result.notes if "stopped early" in note]
    with pytest.raises(MibenchError, match="neighbours"):
        replace(configuration, neighbours=0)
