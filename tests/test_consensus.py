"""Consensus: what each of its steps does, what it depends on and counts, and PPA and DMMIA with the same steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_dmmia
import test_ppa
import torch
from test_dmmia import LABELS, SIZE, confidence, context
from test_ppa import attack, same_bits, unbatched
from torch import Tensor

from mibench import registry, settings
from mibench.api import Attack, Context, MibenchError, Queries
from mibench.attacks.candidate_subsets import draw_subsets
from mibench.attacks.consensus import Consensus
from mibench.attacks.floor import Floor
from mibench.attacks.parameterisation import DirectStyles, LayerStyles
from mibench.rng import Streams, stream

TINY = Consensus(
    unit_size=2,
    pool_size=24,
    candidates=4,
    steps=4,
    rounds=2,
    first_round=0.5,
    subset=2,
    learning_rate=0.05,
    selection_transforms=2,
)
STREAMS = Streams(7, ("test",))
PPA_ALIKE = replace(test_ppa.TINY, pool_size=24, batch_size=4)
STEPPED_PPA = replace(
    PPA_ALIKE,
    optimise="styles",
    views="nuisance",
    loss="cross_entropy",
    milestones=(2,),
    decay=0.5,
    consensus_after=(2, 4),
    consensus_subset=2,
)
STEPPED_DMMIA = replace(test_dmmia.TINY, optimise="styles", views="nuisance", learning_rate=0.05, pool_size=24)


def test_it_raises_the_victim_s_confidence_above_the_floor_s() -> None:
    floor = attack(Floor(pool_size=24, candidates=4, truncation=1.0, selection_transforms=2))
    result = attack(replace(TINY, steps=8))
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert result.curves["loss"].shape == (2, 8)
    assert confidence(result) > confidence(floor) + 0.05


# ---------------------------------------------------------------- consensus


@pytest.mark.parametrize(("count", "size"), [(3, 2), (4, 2), (8, 7), (16, 6), (200, 3)])
def test_subsets_are_of_others_and_no_two_are_the_same(count: int, size: int) -> None:
    drawn = draw_subsets([4, 2], count, size, 5, Streams(3))
    assert drawn.shape == (2, count, size)
    for own in drawn:
        assert not bool((own == torch.arange(count)[:, None]).any()), "a candidate is in its own subset"
        sets = {frozenset(row) for row in own.tolist()}
        assert all(len(row) == size for row in sets)
        assert len(sets) == count
    assert torch.equal(drawn[1:], draw_subsets([2], count, size, 5, Streams(3)))
    if size < count - 1:
        assert not torch.equal(drawn, draw_subsets([4, 2], count, size, 6, Streams(3)))


@pytest.mark.parametrize("kind", [DirectStyles, LayerStyles])
def test_candidates_become_the_means_of_their_subsets_and_adam_begins_anew(kind: type[DirectStyles]) -> None:
    prior: Any = context().prior
    latents = prior.sample(8, stream(1, "latents")).view(2, 4, -1)
    styles = kind(prior, latents, 0.05, (0.5, 0.5), psi=0.5)
    rows = torch.arange(4).expand(2, 4)
    for _ in range(2):
        (styles.w(rows) * torch.rand_like(styles.vectors)).sum().backward()
        styles.step(rows)
    before, start = styles.vectors.clone(), styles.start.clone()
    subsets = draw_subsets([1, 3], 4, 3, 2, Streams(3))
    styles.replace_by_means(subsets)
    for u in range(2):
        for k in range(4):
            assert torch.allclose(styles.vectors[u, k], before[u, subsets[u, k]].mean(dim=0), atol=1e-6)
            assert torch.allclose(styles.start[u, k], start[u, subsets[u, k]].mean(dim=0), atol=1e-6)
    moved = (before - start).mean(dim=1)[0]
    apart = (styles.vectors - styles.start).mean(dim=1)[0]
    assert torch.allclose(moved, apart, atol=1e-6), "every candidate is in as many subsets: what steps moved is kept"
    assert int(styles.steps.sum()) == 0
    assert not styles.mean.any()
    assert not styles.square.any()


def test_the_last_consensus_is_of_what_the_last_round_left() -> None:
    with_it, without = attack(TINY), attack(replace(TINY, final_consensus=False))
    assert torch.equal(with_it.curves["loss"], without.curves["loss"])
    left = without.latents.unflatten(0, (2, 4))
    subsets = draw_subsets(LABELS.tolist(), 4, 2, 4, STREAMS)
    expected = torch.stack([left[u][subsets[u]].mean(dim=1) for u in range(2)])
    assert torch.allclose(with_it.latents, expected.flatten(0, 1), atol=1e-5)
    assert not torch.allclose(with_it.latents, without.latents, atol=1e-2)


def test_the_spread_of_candidates_is_logged_and_falls_with_a_consensus() -> None:
    where = context()
    prior: Any = where.prior
    result, apart = attack(TINY, where), attack(replace(TINY, subset=0), where)
    spread = (result.latents.unflatten(0, (2, 4)).std(dim=1, correction=0) / prior.w_std).flatten(1).mean(dim=1)
    assert torch.allclose(result.curves["spread"][:, -1], spread, atol=1e-4)
    assert bool((result.curves["spread"][:, 1] < apart.curves["spread"][:, 1]).all())


@pytest.mark.parametrize(
    ("steps", "rounds", "share", "schedule"),
    [
        (40, 3, 0.4, (16, 12, 12)),
        (47, 3, 0.4, (19, 14, 14)),
        (40, 4, 0.25, (10, 10, 10, 10)),
        (40, 2, 0.75, (30, 10)),
        (9, 1, 0.4, (9,)),
        (3, 3, 0.4, (1, 1, 1)),
        (8, 3, 0.99, (6, 1, 1)),
        (12, 4, 0.1, (1, 4, 4, 3)),
    ],
)
def test_rounds_share_the_steps(steps: int, rounds: int, share: float, schedule: tuple[int, ...]) -> None:
    assert replace(TINY, steps=steps, rounds=rounds, first_round=share).schedule == schedule


def test_candidates_are_averaged_after_rounds() -> None:
    forty = replace(TINY, steps=40, rounds=3, first_round=0.4)
    assert forty.averaged_after == {16, 28, 40}
    assert replace(forty, final_consensus=False).averaged_after == {16, 28}
    assert replace(forty, subset=0).averaged_after == set()
    assert replace(forty, rounds=1).averaged_after == {40}


# ---------------------------------------------------------------- rates, styles, pull


def starts(configuration: Consensus, where: Context) -> Tensor:
    """Where the candidates of all identities begin ``(U K, W)``."""
    prior: Any = where.prior
    state = configuration.prepare(where, STREAMS)
    best = state["confidence"][:, LABELS].topk(configuration.candidates, dim=0).indices.T
    w: Tensor = prior.mapping(state["latents"][best].flatten(0, 1))
    return w


def test_the_rate_falls_after_the_first_round() -> None:
    """Without moments every number moves by the rate of each step, to either side."""
    where, still = context(), replace(TINY, optimise="style", subset=0, betas=(0.0, 0.0), steps=2)
    moved = (attack(still, where).latents - starts(still, where)).abs()
    up, down = 0.05 + 0.025, 0.05 - 0.025
    assert bool(((moved - up).abs().minimum((moved - down).abs()) < 1e-4).all())
    once = replace(still, rounds=1, steps=1)
    assert torch.allclose((attack(once, where).latents - starts(once, where)).abs(), torch.tensor(0.05), atol=1e-4)


def test_layers_have_styles_of_their_own_from_the_first_step_they_do_not_share() -> None:
    prior: Any = context().prior
    free = replace(TINY, subset=0, rounds=1, steps=3)
    apart = attack(free).latents
    assert apart.shape == (8, prior.num_styles, 6)
    assert float((apart - apart[:, :1]).abs().amax(dim=(0, 2))[1:].min()) > 1e-3
    shared = attack(replace(free, shared_steps=3)).latents
    assert torch.equal(shared, shared[:, :1].expand_as(shared))
    last = attack(replace(free, shared_steps=2)).latents
    assert 1e-3 < float((last - last[:, :1]).abs().max()) <= 2 * 0.05 + 1e-4, "one step of its own for each"


def test_layers_that_share_a_style_are_one_style() -> None:
    one = attack(replace(TINY, optimise="style"))
    shared = attack(replace(TINY, shared_steps=4))
    assert one.latents.shape == (8, 6)
    assert torch.allclose(one.latents, shared.latents[:, 0], atol=1e-3)
    assert torch.allclose(one.images, shared.images, atol=1e-3)


def test_a_pull_keeps_styles_nearer_to_the_mean() -> None:
    prior: Any = context().prior
    far = [
        float(((attack(replace(TINY, prior_weight=weight)).latents - prior.w_avg) / prior.w_std).square().mean())
        for weight in (0.0, 0.1, 100.0)
    ]
    assert far[2] < far[1] < far[0]


# ---------------------------------------------------------------- what it depends on, what it counts


ALIKE = pytest.mark.parametrize("attacked", [TINY, STEPPED_PPA, STEPPED_DMMIA], ids=["consensus", "ppa", "dmmia"])


@pytest.mark.parametrize(
    "attacked", [TINY, pytest.param(STEPPED_PPA, marks=pytest.mark.slow)], ids=["consensus", "ppa"]
)
def test_neither_micro_batch_nor_unit_changes_a_result(attacked: Any) -> None:
    together = attack(attacked, unbatched())
    assert same_bits(together, attack(attacked, unbatched(micro_batch=3)))
    alone = attack(attacked, unbatched(), LABELS[1:])
    own = together.labels == LABELS[1]
    assert torch.equal(together.images[own], alone.images)
    assert torch.equal(together.confidence[own], alone.confidence)


@ALIKE
def test_its_steps_show_the_victim_what_is_planned(attacked: Any) -> None:
    where = context()
    state = attacked.prepare(where, STREAMS)
    assert where.victim.queries == attacked.planned_preparation()
    where.victim.queries = Queries()
    result = attacked.reconstruct(where, state, LABELS, STREAMS)
    assert where.victim.queries == attacked.planned_queries(2)
    assert result.latents.dim() == 3


def test_without_its_steps_it_is_ppa() -> None:
    bare = replace(TINY, optimise="style", views="crops", loss="poincare", subset=0, rounds=1)
    ours, theirs = attack(bare, unbatched()), attack(PPA_ALIKE, unbatched())
    assert torch.allclose(ours.images, theirs.images, atol=1e-3)
    assert torch.allclose(ours.curves["loss"], theirs.curves["loss"], atol=1e-3)


def test_ppa_with_its_steps_is_consensus() -> None:
    ours, theirs = attack(TINY, unbatched()), attack(STEPPED_PPA, unbatched())
    assert torch.allclose(ours.images, theirs.images, atol=1e-3)
    assert torch.allclose(ours.curves["loss"], theirs.curves["loss"], atol=1e-3)


@pytest.mark.parametrize("change", [{"views": "crops"}, {"optimise": "style"}, {"consensus_after": ()}], ids=str)
def test_ppa_takes_each_step_by_itself(change: dict[str, Any]) -> None:
    all_of_them, others = attack(STEPPED_PPA), attack(replace(STEPPED_PPA, **change))
    assert not torch.allclose(all_of_them.images, others.images, atol=1e-2)


def test_dmmia_takes_its_views_and_styles() -> None:
    plain = replace(STEPPED_DMMIA, optimise="w", views="crops")
    ours = attack(STEPPED_DMMIA)
    assert float((ours.latents - ours.latents[:, :1]).abs().max()) > 1e-3
    for change in ({"views": "nuisance"}, {"optimise": "styles"}):
        assert not torch.allclose(attack(replace(plain, **change)).images, attack(plain).images, atol=1e-2), change


def test_results_of_before_keep_their_digests() -> None:
    later = {"optimise", "consensus_after", "consensus_subset"}
    assert not later & set(test_ppa.TINY.recorded_settings())
    assert later <= set(replace(STEPPED_PPA, consensus_subset=3).recorded_settings())
    assert "views" not in test_dmmia.TINY.recorded_settings()
    assert STEPPED_DMMIA.recorded_settings()["views"] == "nuisance"


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("variant", sorted(settings.attack_presets("consensus").variants))
def test_every_variant_goes_with_every_preset_and_does_something(variant: str) -> None:
    presets = settings.attack_presets("consensus")
    for name, preset in presets.presets.items():
        plain, _ = settings.resolve(Consensus, [preset], scope="attack")
        changed, _ = settings.resolve(
            Consensus, [preset, settings.variant_layer("consensus", variant, presets)], scope="attack"
        )
        assert changed != plain, name


@pytest.mark.parametrize("name", ["consensus", "ppa", "dmmia"])
def test_a_prior_with_one_style_for_all_layers_is_refused_before_the_search(name: str) -> None:
    where = context()
    prior: Any = where.prior
    prior.num_styles = 1
    attacked: dict[str, Attack] = {"consensus": TINY, "ppa": STEPPED_PPA, "dmmia": STEPPED_DMMIA}
    with pytest.raises(MibenchError, match=rf"{name}: prior 'tiny' takes one style for all layers"):
        attacked[name].prepare(where, STREAMS)
    assert where.victim.queries == Queries()
    assert registry.load("attack", name) is type(attacked[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": 25}, "raise pool_size"),
        ({"rounds": 5}, "lower rounds"),
        ({"first_round": 0.0}, "first_round"),
        ({"first_round": 1.5}, "first_round"),
        ({"subset": 1}, "between 2 and candidates - 1, got 1 of 4"),
        ({"subset": 4}, "between 2 and candidates - 1, got 4 of 4"),
        ({"optimise": "style", "shared_steps": 2}, "leave shared_steps at 0"),
        ({"later_rate": 0.0}, "later_rate"),
        ({"prior_weight": -1.0}, "prior_weight"),
        ({"crop_scale": (1.0, 0.9)}, "crop_scale"),
        ({"betas": (0.1, 1.0)}, "betas"),
        ({"loss": "hinge"}, "unknown identity loss"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"consensus_after": (0,)}, "consensus_after"),
        ({"consensus_subset": 4}, "consensus_subset"),
        ({"shared_crop": True}, "nuisance views are each image's own"),
    ],
)
def test_settings_of_ppa_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(STEPPED_PPA, **change)
