"""MIRROR: both loops against the reference vectors, what they share, what they count, what they refuse."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_gmi
import torch
from test_dmmia import CLASSES, LABELS, SIZE, confidence, context
from test_ppa import same_bits, unbatched
from torch import Tensor, nn

from mibench import settings
from mibench.api import (
    Access,
    AccessError,
    Attack,
    ClassifierOutput,
    Context,
    ImageSpec,
    MibenchError,
    Prior,
    Queries,
    Reconstruction,
    Victim,
)
from mibench.attacks.floor import Floor
from mibench.attacks.mirror_b import MirrorBlack
from mibench.attacks.mirror_generation import Draws, by_fitness, children, share_of_first, spread
from mibench.attacks.mirror_space import CodeSpace, Mirror
from mibench.attacks.mirror_w import Kept, MirrorWhite, ramp
from mibench.rng import Streams

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "mirror_vectors.json").read_text())
BLACK, WHITE = VECTORS["mirror_black"], VECTORS["mirror_white"]
NEAR = {"atol": 2e-5, "rtol": 0.0}

SHARED = {"unit_size": 2, "pool_size": 48, "candidates": 4, "truncation": 1.0, "kappa": 2.0, "selection_transforms": 2}
TINY_W = MirrorWhite(**SHARED, steps=6, learning_rate=0.1)  # type: ignore[arg-type]
TINY_B = MirrorBlack(**SHARED, population=8, generations=5, stop_confidence=None, mutation_size=1.0)  # type: ignore[arg-type]
BOTH = pytest.mark.parametrize("attack", [TINY_W, TINY_B], ids=["mirror-w", "mirror-b"])


def reconstructed(attack: Attack, where: Context | None = None, labels: Tensor = LABELS) -> Reconstruction:
    where = where or context()
    streams = Streams(7, ("test",))
    return attack.reconstruct(where, attack.prepare(where, streams), labels, streams)


# The toy of the vectors: 5 classes, 6 inputs, images are latents.


def u(k: int) -> float:
    return ((7919 * k * k + 104729 * k + 13) % 10007) / 10007


def g(k: int) -> float:
    return 1.4 * math.sin(2.1 * k + 0.37 * ((k * k) % 101))


def toy_logits(x: Tensor) -> Tensor:
    weight = torch.tensor([[1.5 * math.cos(0.9 * c + 0.6 * d * (c + 1)) for d in range(6)] for c in range(5)])
    return x @ weight.T + torch.tensor([0.2 * math.sin(c) for c in range(5)])


def toy_fitness(x: Tensor) -> Tensor:
    own: Tensor = toy_logits(x).log_softmax(dim=-1)[..., BLACK["setting"]["target"]]
    return own


def toy_pool() -> tuple[Tensor, CodeSpace]:
    p = torch.tensor([[g(6 * i + d) * (0.5 + 0.1 * d) + 0.2 * math.sin(d) for d in range(6)] for i in range(40)])
    return nn.functional.leaky_relu(p, 0.2), CodeSpace(p.mean(dim=0), p.std(dim=0, correction=0))


def uniform_stream() -> Callable[..., Tensor]:
    k = 0

    def draw(*shape: int) -> Tensor:
        nonlocal k
        values = torch.tensor([u(k + i) for i in range(math.prod(shape))])
        k += len(values)
        return values.view(1, *shape)

    return draw


def test_p_space_and_its_bounds_are_those_of_the_reference() -> None:
    codes, space = toy_pool()
    low, high = space.bounds(1.0)
    for ours, name in ((space.mean, "p_mean"), (space.std, "p_std"), (low, "w_min"), (high, "w_max")):
        assert torch.allclose(ours, torch.tensor(BLACK[name]), **NEAR), name
    assert torch.allclose(space.to_code(space.to_p(codes)), codes, **NEAR)
    example = BLACK["clip_example"]
    assert torch.allclose(torch.tensor(example["w"]).float().clamp(low, high), torch.tensor(example["clipped"]), **NEAR)


def test_six_generations_are_those_of_the_reference() -> None:
    pool, space = toy_pool()
    codes, fitness = by_fitness(pool[None], toy_fitness(pool)[None])
    codes, fitness, draw = codes[:, :10], fitness[:, :10], uniform_stream()
    elite = [float(fitness[0, 0])]
    for generation in range(1, 7):
        draws = Draws(draw(18), draw(9, 6), draw(9, 6), draw(1, 6))
        bred = children(codes, fitness, draws, space, 1.0, "released", (0.1, 0.1))
        population = torch.cat([codes[:, :1], bred], dim=1)
        scored = toy_fitness(population)
        if generation == 1:
            assert torch.allclose(scored[0], torch.tensor(BLACK["generation1_fitness"]), **NEAR)
            assert torch.allclose(bred[0, 0], torch.tensor(BLACK["generation1_first_child"]), **NEAR)
        if generation == 6:
            assert torch.allclose(bred[0, 0], torch.tensor(BLACK["generation6_first_child"]), **NEAR)
        codes, fitness = by_fitness(population, scored)
        elite.append(float(fitness[0, 0]))
    assert elite == pytest.approx(BLACK["elite_log_p"], abs=2e-5)
    assert torch.allclose(codes[0, 0], torch.tensor(BLACK["final_w"]), **NEAR)


def test_the_fitter_parent_gives_more_and_in_the_released_code_less() -> None:
    first, second = torch.tensor(BLACK["crossover_share"]["log_p_parents"])
    wanted = BLACK["crossover_share"]
    assert float(share_of_first(first, second, "released")) == pytest.approx(wanted["share_of_parent1_released"])
    assert float(share_of_first(first, second, "probability")) == pytest.approx(
        wanted["share_of_parent1_by_probability"]
    )
    certain = torch.zeros(())
    assert float(share_of_first(certain, certain, "released")) == 0.5, "0/0 where both parents are certain"
    assert math.isfinite(float(share_of_first(certain, torch.tensor(-69.0), "probability")))


def test_equal_fitness_keeps_the_order_of_the_population() -> None:
    codes = torch.arange(6.0).view(1, 6, 1)
    kept, _ = by_fitness(codes, torch.tensor([[0.5, 0.7, 0.7, 0.5, 0.7, 0.5]]))
    assert kept.flatten().tolist() == [1, 2, 4, 0, 3, 5]


@pytest.mark.parametrize("steps", [20_000, 100])
def test_the_learning_rate_is_the_reference_s(steps: int) -> None:
    for epoch, rate in WHITE[f"lr_of_0.25_{steps}"].items():
        assert 0.25 * ramp(int(epoch) / steps) == pytest.approx(rate, abs=1e-6)


class Identity(Prior):
    """A prior whose images are its latents, one number repeated as a pixel: 6 numbers in the channel-first row 0."""

    name, image, latent_dim = "identity", ImageSpec(8), 6

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, 6, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        pixels = nn.functional.pad(latents, (0, 3 * 64 - 6))
        return pixels.view(-1, 3, 8, 8)


class ToyVictim(nn.Module):
    """The vectors' victim of the first 6 numbers."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        x = images.flatten(1)[:, :6]
        return ClassifierOutput(x, toy_logits(x))


def toy_context() -> Context:
    victim = Victim(ToyVictim(), image=ImageSpec(8), num_classes=5, access=Access.GRADIENTS)
    return Context(victim=victim, prior=Identity(), device=torch.device("cpu"))


def test_twenty_steps_of_the_white_box_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack itself, on the vectors' pool and victim, with the released way to keep a state."""
    pool, space = toy_pool()
    where = toy_context()
    state = {
        "latents": pool,
        "confidence": toy_logits(pool).softmax(dim=1),
        "mean": space.mean,
        "std": space.std,
    }
    monkeypatch.setattr(MirrorWhite, "space", lambda *_: space)
    monkeypatch.setattr("mibench.attacks.mirror_space.render_images", lambda *_: torch.zeros(4, 3, 8, 8))
    attack = MirrorWhite(pool_size=40, candidates=4, steps=20, kappa=1.0, flip="none", keep="batch")
    labels = torch.tensor([BLACK["setting"]["target"]])
    start, _ = attack.start(state, labels, 4)
    assert torch.allclose(start[0], torch.tensor(WHITE["run"]["start"]), **NEAR)
    result = attack.reconstruct(where, state, labels, Streams(0))
    assert torch.allclose(result.latents, torch.tensor(WHITE["run"]["best"]), **NEAR)
    assert toy_fitness(result.latents).exp().tolist() == pytest.approx(WHITE["run"]["p_target"], abs=2e-5)


@pytest.mark.parametrize(("keep", "kept"), [("candidate", [1, 0]), ("batch", [1, 1])])
def test_each_candidate_keeps_its_own_moment_or_all_keep_the_one_after_the_best_step(keep: Any, kept: Any) -> None:
    states = [torch.full((1, 2, 1), float(number)) for number in range(4)]
    best = Kept(states[0], keep)
    for step, losses in enumerate(([3.0, 1.0], [1.0, 3.5], [2.0, 2.5])):  # of states 0, 1, 2; means 2, 2.25, 2.25
        best.before(states[step], torch.tensor([losses]))
        best.after(states[step + 1])
    assert best.codes.flatten().tolist() == kept


def test_a_kept_state_has_the_loss_it_is_kept_for() -> None:
    """Ours keeps each candidate's best moment; the released code the state after the best step of the batch."""
    where = toy_context()
    attack = MirrorWhite(pool_size=40, candidates=4, steps=12, learning_rate=3.0, kappa=3.0, flip="none")
    labels = torch.tensor([2])
    own = reconstructed(attack, where, labels)
    batch = reconstructed(replace(attack, keep="batch"), where, labels)
    assert (toy_fitness(own.latents) >= toy_fitness(batch.latents) - 1e-6).all()
    start, _ = attack.start(attack.prepare(where, Streams(7, ("test",))), labels, 4)
    assert (toy_fitness(own.latents) >= toy_fitness(start[0]) - 1e-6).all(), "the start is a moment as well"


@BOTH
def test_mirror_raises_the_victim_s_confidence_above_the_floor_s(attack: Mirror) -> None:
    floor = reconstructed(Floor(pool_size=48, candidates=4, truncation=1.0, selection_transforms=2))
    result = reconstructed(attack)
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert confidence(result) > confidence(floor) + 0.02


@BOTH
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(attack: Mirror) -> None:
    one, other = reconstructed(attack), reconstructed(attack)
    assert same_bits(one, other)
    where, streams = context(), Streams(8, ("test",))
    third = attack.reconstruct(where, attack.prepare(where, streams), LABELS, streams)
    assert not torch.equal(one.images, third.images)


@BOTH
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_micro_batch_only_splits_work(attack: Mirror, micro_batch: int) -> None:
    assert same_bits(reconstructed(attack, unbatched()), reconstructed(attack, unbatched(micro_batch=micro_batch)))


@BOTH
def test_an_identity_owes_nothing_to_the_others(attack: Mirror) -> None:
    together = reconstructed(attack, unbatched())
    alone = reconstructed(attack, unbatched(), LABELS[1:])
    own = together.labels == LABELS[1]
    assert torch.allclose(together.images[own], alone.images, atol=1e-5)
    assert torch.allclose(together.confidence[own], alone.confidence, atol=1e-5)


def test_both_start_clip_and_rank_alike() -> None:
    where, streams = context(), Streams(7, ("test",))
    states = [attack.prepare(where, streams) for attack in (TINY_W, TINY_B)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    low, high = TINY_W.space(where, states[0]).bounds(2.0)
    for attack in (TINY_W, TINY_B):
        codes = attack.reconstruct(where, states[0], LABELS, streams).latents
        started = attack.start(states[0], LABELS, 8)[0].flatten(0, 1)
        kept = (codes[:, None] == started).all(dim=2).any(dim=1)  # what was never improved upon is not clipped
        assert ((codes >= low - 1e-6) & (codes <= high + 1e-6))[~kept].all()
        assert not kept.all()


@pytest.mark.parametrize("name", ["mirror-w", "mirror-b"])
def test_presets_of_both_share_what_the_pair_shares(name: str) -> None:
    shared = {field.name for field in dataclasses.fields(Mirror)}
    ours, theirs = (settings.attack_presets(each).presets for each in ("mirror-w", "mirror-b"))
    assert ours.keys() == theirs.keys()
    for preset in ours:
        values = [{k: v for k, v in presets[preset].values.items() if k in shared} for presets in (ours, theirs)]
        assert values[0] == values[1], preset


def test_the_pool_is_every_attack_s() -> None:
    where, streams = context(), Streams(7, ("test",))
    prior: Any = where.prior
    with torch.no_grad():
        floor = Floor(pool_size=48).prepare(where, streams)["latents"]
        assert torch.allclose(TINY_B.prepare(where, streams)["latents"], prior.mapping(floor), atol=1e-6)


def test_truncation_belongs_to_rendering_and_never_to_a_code() -> None:
    where, streams = context(), Streams(7, ("test",))
    free, pulled = (replace(TINY_B, truncation=psi).prepare(where, streams) for psi in (1.0, 0.5))
    assert torch.equal(free["latents"], pulled["latents"])
    assert not torch.equal(free["confidence"], pulled["confidence"])


def asked(attack: Attack, where: Context, labels: Tensor = LABELS) -> tuple[Queries, Queries]:
    streams = Streams(3, ("test",))
    state = attack.prepare(where, streams)
    prepared, where.victim.queries = where.victim.queries, Queries()
    attack.reconstruct(where, state, labels, streams)
    return prepared, where.victim.queries


@pytest.mark.parametrize(
    "change",
    [{}, {"mirror_images": True}, {"selection_transforms": 0}, {"rescore_elite": True}, {"stop_confidence": 2.0}],
    ids=str,
)
def test_the_black_box_asks_exactly_what_it_plans_unless_it_stops_early(change: dict[str, Any]) -> None:
    attack = replace(TINY_B, **change)
    assert not attack.stops_early
    assert asked(attack, context()) == (attack.planned_preparation(), attack.planned_queries(2))


def test_the_elite_is_shown_again_only_where_that_is_asked_for() -> None:
    once, again = TINY_B.planned_queries(2), replace(TINY_B, rescore_elite=True).planned_queries(2)
    assert again.forward - once.forward == 2 * TINY_B.generations


def test_an_early_stop_is_declared_counted_and_noted() -> None:
    attack = replace(TINY_B, generations=30, stop_confidence=0.9)
    assert attack.stops_early
    where = context()
    _, used = asked(attack, where)
    planned = attack.planned_queries(2)
    ranking = attack.planned_ranking(2)
    assert ranking <= used.forward < planned.forward
    assert (used.forward - ranking) % (attack.population - 1) == 0, "whole generations of those that still run"
    result = reconstructed(attack)
    assert any("stopped early" in note and f"{planned.forward - ranking:,} planned" in note for note in result.notes)
    elite = result.curves["elite_confidence"]
    assert elite.shape == (2, 31), "the curves of all units are of one length"
    assert (elite.diff(dim=1) >= 0).all(), "the elite never gets worse"
    for own in elite:
        reached = int((own >= 0.9).nonzero()[0])
        assert (own[reached:] == own[reached]).all(), "an identity that has stopped is frozen"


def test_an_identity_that_stopped_does_not_change_the_others() -> None:
    attack = replace(TINY_B, generations=12, stop_confidence=0.9)
    labels = torch.arange(CLASSES)
    together = reconstructed(attack, unbatched(), labels)
    for label in labels:
        alone = reconstructed(attack, unbatched(), label[None])
        assert torch.allclose(together.images[together.labels == label], alone.images, atol=1e-5)


def test_a_collapsed_population_is_noted() -> None:
    result = reconstructed(replace(TINY_B, mutation_size=0.0, generations=40, population=4))
    assert any("collapsed" in note for note in result.notes)
    assert not reconstructed(TINY_B).notes
    codes, space = toy_pool()
    assert float(spread(codes[None], space)[0]) == pytest.approx(1.0, abs=1e-5), "in standard deviations of the pool"
    assert float(spread(codes[None, :1], space)[0]) == 0


@BOTH
def test_a_prior_without_a_mapping_network_is_searched_in_z(attack: Mirror) -> None:
    where, streams = test_gmi.context(), Streams(7, ("test",))
    state = attack.prepare(where, streams)
    assert state["latents"].shape == (48, test_gmi.Z)
    low, high = attack.space(where, state).bounds(1.5)
    assert torch.equal(high, torch.full((test_gmi.Z,), 1.5))
    assert torch.equal(low, -high)
    assert attack.reconstruct(where, state, LABELS, streams).images.shape[0] == 8


def test_the_black_box_gets_by_with_scores_and_neither_with_less() -> None:
    reconstructed(TINY_B, context(Access.SCORES))
    with pytest.raises(AccessError):
        reconstructed(TINY_W, context(Access.SCORES))
    assert (MirrorBlack.access, MirrorWhite.access) == (Access.SCORES, Access.GRADIENTS)


REFUSED: list[tuple[type[Mirror], dict[str, Any], str]] = [
    (MirrorWhite, {"candidates": 20, "pool_size": 10}, "raise pool_size"),
    (MirrorWhite, {"betas": (0.9, 1.0)}, "betas must lie in"),
    (MirrorWhite, {"loss": "hinge"}, "unknown identity loss"),
    (MirrorWhite, {"steps": 0}, "steps must be at least 1"),
    (MirrorWhite, {"kappa": 0.0}, "kappa must be positive"),
    (MirrorBlack, {"population": 1}, "population must lie between 2"),
    (MirrorBlack, {"population": 50, "pool_size": 40}, "population must lie between 2 and pool_size"),
    (MirrorBlack, {"population": 5, "candidates": 6}, "raise population"),
    (MirrorBlack, {"mutation_probability": 1.5}, "mutation_probability is a share"),
    (MirrorBlack, {"stop_confidence": 0.0}, "stop_confidence must be a probability"),
]


@pytest.mark.parametrize(("kind", "values", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_settings_out_of_range_are_refused_in_one_line(kind: type[Mirror], values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words) as refused:
        kind(**values)
    assert "\n" not in str(refused.value)
