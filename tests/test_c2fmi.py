"""C2FMI: the released evolution, and what the attack depends on, asks and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import VECTORS
from test_dmmia import CLASSES, LABELS, ROUNDED, SIZE, context
from test_mirror import g, toy_logits, toy_pool, u
from test_ppa import attack, same_bits
from torch import Tensor
from torch.nn.functional import normalize

from mibench import settings
from mibench.api import Access, AccessError, Context, MibenchError, Queries
from mibench.attacks.c2fmi import C2FMI
from mibench.attacks.coarse_stage import inverse_input
from mibench.attacks.differential_evolution import extended, fitness, proposals, shrinking
from mibench.attacks.mirror_space import CodeSpace
from mibench.attacks.surrogate_networks import loaded
from mibench.rng import Streams, stream

RUN = VECTORS["c2fmi"]
NEAR: dict[str, Any] = {"atol": 2e-5, "rtol": 0.0}
TINY = C2FMI(
    unit_size=2,
    pool_size=48,
    starts=4,
    population=8,
    generations=6,
    pull=0.3,
    candidates=3,
    selection_transforms=2,
)
PUBLIC = replace(
    TINY,
    embedding="public",
    public_images=12,
    width=2,
    embedding_steps=8,
    inverse_steps=8,
    hidden=16,
    coarse=6,
    coarse_steps=20,
)


def with_strangers(**options: Any) -> Context:
    """A context with public images."""

    def strangers(count: int) -> Tensor:
        return torch.rand(40, 3, SIZE, SIZE, generator=stream(0, "strangers"))[:count]

    return context(public=strangers, **options)


# ---------------------------------------------------------------- vectors


def test_the_released_evolution() -> None:
    """Its filling of the population, then 35 generations; three members are drawn until they are distinct."""
    uniform = (u(k) for k in range(10**6))

    def members(count: int, below: int) -> list[int]:
        return [int(below * next(uniform)) for _ in range(count)]

    def triple() -> list[int]:
        while len(set(rows := members(3, 5))) < 3:
            pass
        return rows

    def scored(codes: Tensor) -> Tensor:
        return fitness(toy_logits(codes[0]).softmax(dim=1), torch.full((8,), 2))[None]

    fresh = torch.tensor([[[g(6 * k + d) for d in range(6)] for k in range(3)]])
    codes = extended(toy_pool()[0][None, :5], torch.tensor([[triple() for _ in range(3)]]), fresh)
    assert torch.allclose(codes[0, 5:], torch.tensor(RUN["extended_rows_5_to_7"]), **NEAR)
    fit, best_after = scored(codes), {}
    for generation in range(35):
        pairs = torch.tensor(members(64, 8)).view(1, 8, 4, 2)
        coins = torch.tensor([next(uniform) for _ in range(48)]).view(1, 8, 6)
        best = codes[:, int(fit.argmax())]
        proposed = proposals(codes, best, pairs, coins, 0.02, shrinking(0.1, generation, 35))
        new = scored(proposed)
        codes, fit = torch.where((new > fit)[..., None], proposed, codes), torch.maximum(new, fit)
        if generation == 0:
            assert torch.allclose(codes[0, :2], torch.tensor(RUN["population_after_1"]), **NEAR)
        best_after[str(generation + 1)] = float(fit.max())
    for done, value in RUN["best_after"].items():
        assert best_after[done] == pytest.approx(value, abs=2e-5), done
    assert torch.allclose(codes[0, int(fit.argmax())], torch.tensor(RUN["final_best_row"]), **NEAR)


def test_differences_shrink_in_the_last_generations() -> None:
    for generation, beta in RUN["beta_by_generation"].items():
        assert shrinking(0.1, int(generation), 35) == pytest.approx(beta)


def test_the_published_plans() -> None:
    wanted = VECTORS["query_plans"]["images_per_identity_published"]["c2fmi"]
    one = C2FMI(candidates=1)
    ranked, known = 1, one.starts  # ours; the released code scores all 32 at first, of which ours knows the start's
    cached = one.planned_queries(1).forward - ranked + known
    released = replace(one, rescore_parents=True).planned_queries(1).forward - ranked + known
    assert cached == wanted["stage2_cached"]
    coarse = replace(one, embedding="public").planned_queries(1).forward
    assert coarse == one.planned_queries(1).forward + wanted["stage1_end"]
    assert released == wanted["stage2_released"]


def test_what_the_inverse_map_is_given() -> None:
    given = {
        "scores_.6_.25_.1_.04_.01": torch.tensor([[0.6, 0.25, 0.1, 0.04, 0.01]]),
        "target_2_noise_.5_1.2_._.8_.1": normalize(torch.tensor([[0.5, 1.2, 1e18, 0.8, 0.1]]), dim=1),
    }
    for name, wanted in RUN["input_of_the_inverse_map"].items():
        scores, _, keep = name.partition("|keep")
        assert torch.allclose(inverse_input(given[scores], int(keep)), torch.tensor([wanted]), **NEAR), name
    lifted = inverse_input(torch.tensor([[1.0, 0.0, 0.0]]))
    assert lifted[0].tolist() == pytest.approx([1.0, 0.0, 0.0]), "the least logarithm becomes 0"


# ---------------------------------------------------------------- ours


def test_of_truncated_scores_without_the_class_less_of_the_others_is_better() -> None:
    scores = torch.tensor([[0.6, 0.0, 0.4], [0.0, 0.3, 0.5], [0.5, 0.0, 0.2]])
    assert fitness(scores, torch.tensor([0, 0, 1])).tolist() == pytest.approx([0.6, -0.8, -0.7])


def test_a_start_without_the_class_is_where_the_others_are_least() -> None:
    """As scores that are cut off: then members that do not have the class are still told apart."""
    here, streams = context(), Streams(7, ("test",))
    state = TINY.prepare(here, streams)
    cut = state["confidence"] * (torch.arange(48)[:, None] + 1) / 48
    cut[:, LABELS] = 0
    cut[7, LABELS[0]] = 0.2
    start, known = TINY._start(here, {**state, "confidence": cut}, LABELS, streams)
    assert torch.equal(start[0, 0], state["latents"][7])
    least = cut.sum(dim=1).argsort(stable=True)
    assert torch.equal(start[1], state["latents"][least[:4]])
    assert known[0, 0] == pytest.approx(0.2)
    assert (known[1] < 0).all()


@pytest.fixture(params=["stylegan2", "dcgan"])
def where(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makers of contexts with and without a mapping network."""
    return context if request.param == "stylegan2" else test_gmi.context  # type: ignore[return-value]


def test_scores_are_all_that_it_needs_and_the_best_never_falls(where: Any) -> None:
    here: Context = where(access=Access.SCORES)
    streams = Streams(7, ("test",))
    state = TINY.prepare(here, streams)
    result = TINY.reconstruct(here, state, LABELS, streams)
    assert result.labels.tolist() == [1] * 3 + [3] * 3
    best = result.curves["best"]
    assert best.shape == (2, TINY.generations + 1)
    assert (best.diff(dim=1) >= 0).all()
    assert torch.allclose(best[:, 0], torch.maximum(best[:, 0], state["confidence"][:, LABELS].amax(dim=0)), atol=1e-5)
    assert (best[:, -1] > best[:, 0]).any()
    with pytest.raises(AccessError):
        here.victim.logits(result.images)


def test_the_results_are_the_best_of_the_last_population() -> None:
    one = replace(TINY, selection_transforms=0)
    result = attack(one)
    found = result.confidence.view(2, 3)
    assert torch.allclose(found.amax(dim=1), result.curves["best"][:, -1], atol=1e-5)
    assert (found.diff(dim=1) <= 1e-6).all(), "best first"


def test_bounds_hold_for_whatever_moved() -> None:
    streams = Streams(7, ("test",))
    here = context()
    one = replace(TINY, kappa=0.5, generations=30, candidates=8)
    state = one.prepare(here, streams)
    low, high = CodeSpace(state["mean"], state["std"]).bounds(0.5)
    bounded, free = (
        setting.reconstruct(here, state, LABELS, streams).latents for setting in (one, replace(one, kappa=None))
    )
    inside = [((codes >= low - 1e-6) & (codes <= high + 1e-6)).all(dim=1).float().mean() for codes in (bounded, free)]
    assert inside[0] > inside[1]


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    together = attack(TINY)
    assert same_bits(together, attack(TINY))
    assert torch.allclose(together.images, attack(TINY, context(micro_batch=3)).images, **ROUNDED)
    alone = attack(TINY, None, LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, **ROUNDED)


# ---------------------------------------------------------------- the first stage


def test_the_first_stage_nears_what_the_inverse_map_says_of_the_class() -> None:
    here, streams = with_strangers(access=Access.SCORES), Streams(7, ("test",))
    prior: Any = here.prior
    stage, decode = PUBLIC._stage(), PUBLIC._decoder(prior)
    networks = loaded(stage.networks(here), PUBLIC.prepare(here, streams), here)
    certain = torch.zeros(2, CLASSES).scatter(1, LABELS[:, None], 1.0)
    wanted = networks["inverse"](certain)[:, None]

    def distance(codes: Tensor) -> Tensor:
        images = here.fit(decode(codes.flatten(0, 1)))
        return (networks["embedding"]((images - 0.5) / 0.25).view(2, 6, -1) - wanted).square().mean(dim=(1, 2))

    before = here.victim.queries.forward
    start, end = (
        replace(stage, rate=rate).search(networks, here, prior, decode, LABELS, streams) for rate in (0.0, stage.rate)
    )
    assert here.victim.queries.forward == before, "the victim is shown nothing"
    assert start.shape == end.shape == (2, 6, 6)
    assert (distance(end) < distance(start)).all()


def test_the_first_stage_depends_on_the_seed_and_on_nothing_else() -> None:
    streams = Streams(7, ("test",))
    state = PUBLIC.prepare(with_strangers(), streams)
    together = PUBLIC.reconstruct(with_strangers(), state, LABELS, streams)
    assert same_bits(together, PUBLIC.reconstruct(with_strangers(), state, LABELS, streams))
    cut = PUBLIC.reconstruct(with_strangers(micro_batch=5), state, LABELS, streams)
    assert torch.allclose(together.images, cut.images, **ROUNDED)
    alone = PUBLIC.reconstruct(with_strangers(), state, LABELS[1:], streams)
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, **ROUNDED)
    assert not torch.equal(together.curves["best"][:, 0], attack(TINY).curves["best"][:, 0]), "another start"


def test_an_embedding_needs_as_many_public_images_as_it_has_classes() -> None:
    for here in (context(), with_strangers()):
        with pytest.raises(MibenchError, match="learns 41 public images, there are"):
            replace(PUBLIC, public_images=41).prepare(here, Streams(7, ("test",)))


# ---------------------------------------------------------------- queries and refusals


@pytest.mark.parametrize(
    "change",
    [{}, {"rescore_parents": True}, {"selection_transforms": 0}, {"embedding": "public"}],
    ids=str,
)
def test_it_asks_what_it_plans(change: dict[str, Any]) -> None:
    one = replace(PUBLIC, **{"embedding": "none", **change})
    here, streams = with_strangers(access=Access.SCORES, micro_batch=7), Streams(3, ("test",))
    assert not one.stops_early
    state = one.prepare(here, streams)
    assert here.victim.queries == one.planned_preparation() == Queries(forward=48)
    here.victim.queries = Queries()
    one.reconstruct(here, state, LABELS, streams)
    assert here.victim.queries == one.planned_queries(2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"starts": 2}, "starts must be at least 3"),
        ({"starts": 8}, "below population"),
        ({"candidates": 9}, "best of the population"),
        ({"embedding": "public", "coarse": 3}, "best of the first stage's 3 codes"),
        ({"kept_scores": 0}, "kept_scores must be at least 1"),
        ({"kappa": 0.0}, "kappa must be positive"),
        ({"pairs": 0}, "pairs must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)


def test_recommended_fits_the_protocol_equal() -> None:
    one, _ = settings.resolve(C2FMI, [settings.attack_presets("c2fmi").presets["recommended"]], scope="attack")
    assert one.planned_preparation().forward + 5 * one.planned_queries(10).forward <= 1701 * 50
