"""BREP-MI: the released code's walks, its starts and ends, and what it depends on and counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import VECTORS
from test_dmmia import LABELS, context
from test_mirror import g, toy_context
from test_ppa import attack, same_bits, unbatched
from torch import Tensor

from mibench.api import Access, AccessError, Context, MibenchError, Queries, Reconstruction
from mibench.attacks.brep import BREP
from mibench.attacks.sphere import Walk, first_of_class
from mibench.rng import Streams

RUN = VECTORS["brep"]
TINY = BREP(
    unit_size=2,
    pool_size=48,
    restarts=2,
    directions=6,
    steps=8,
    patience=None,
    step="normalised",
    selection_transforms=3,
)
NEAR: dict[str, Any] = {"atol": 2e-5, "rtol": 0.0}


def start_of(m: int) -> Tensor:
    return torch.tensor([[round((0.3 + 0.04 * m) * math.sin(1 + m + 0.8 * d), 6) for d in range(6)]])


def walked(monkeypatch: pytest.MonkeyPatch, m: int, **settings: Any) -> tuple[Reconstruction, list[Tensor]]:
    """The attack itself on the vectors' victim, from their start, along their directions; every point it tried."""
    blocks = (torch.tensor([[g(96 * k + 6 * n + d) for d in range(6)] for n in range(16)]) for k in range(200))
    tried: list[Tensor] = []

    def drawn(*_: Any) -> Tensor:
        return torch.nn.functional.normalize(next(blocks)[None], dim=2)

    where = toy_context()
    labelled = where.victim.labels

    def watched(images: Tensor) -> Tensor:
        if len(images) == 1:
            tried.append(images.flatten(1)[:, :6])
        return labelled(images)

    monkeypatch.setattr("mibench.attacks.brep.directions", drawn)
    monkeypatch.setattr(where.victim, "labels", watched)
    target = RUN.get(f"m{m}", RUN["m38"])["target"]
    state = {"points": start_of(m), "labels": torch.tensor([target]), "mean": torch.zeros(6), "std": torch.ones(6)}
    one = BREP(
        directions=16,
        steps=60,
        patience=12,
        radius=2.0,
        rejected="free",
        result="last",
        selection_transforms=0,
        **settings,
    )
    return one.reconstruct(where, state, torch.tensor([target]), Streams(0)), tried


@pytest.mark.parametrize("m", [38, 36])
def test_the_released_walks(monkeypatch: pytest.MonkeyPatch, m: int) -> None:
    """With growth (38) and with rejected steps that are not counted (36)."""
    result, tried = walked(monkeypatch, m)
    wanted = RUN[f"m{m}"]
    trace = torch.tensor(wanted["trace_radius_inside_expanded_accepted"])
    steps = wanted["iterations"]
    assert len(trace) == steps
    if m == 36:
        assert len(tried) == steps, "one point in each step"
    assert torch.allclose(torch.cat(tried[:4]), torch.tensor(wanted["candidates_first4"]), **NEAR)
    assert torch.allclose(result.latents[0], torch.tensor(wanted["final_point"]), **NEAR)
    curves = result.curves
    assert torch.allclose(16 * curves["inside"][0, :steps], trace[:, 1], **NEAR)
    assert torch.allclose(curves["accepted"][0, :steps], trace[:, 3], **NEAR)
    after = torch.where(trace[:, 2] > 0, 1.3 * trace[:, 0], trace[:, 0])
    assert torch.allclose(curves["radius"][0, :steps], after, rtol=1e-5)
    assert float(curves["radius"][0, -1]) == float(curves["radius"][0, steps - 1]), "what has ended is frozen"


def test_the_released_walk_with_attraction(monkeypatch: pytest.MonkeyPatch) -> None:
    result, tried = walked(monkeypatch, 38, repulsion_only=False)
    wanted = RUN["m38_symmetric"]
    assert len(tried) == wanted["iterations"]
    assert torch.allclose(torch.cat(tried[:3]), torch.tensor(wanted["candidates_first3"]), **NEAR)
    assert torch.allclose(result.latents[0], torch.tensor(wanted["final_point"]), **NEAR)


def test_how_many_have_to_be_inside() -> None:
    for count, least in RUN["least_inside_to_expand"].items():
        number = int(count)
        grows = [2 * inside - number > BREP().growth_share * number for inside in range(number + 1)]
        assert grows.index(True) == least


# ---------------------------------------------------------------- ours


def test_starts_are_the_pool_s_of_the_class_in_its_order() -> None:
    points = torch.arange(5.0)[:, None]
    starts, reached = first_of_class(points, torch.tensor([1, 0, 1, 2, 1]), torch.tensor([1, 2, 7]), 2)
    assert starts[..., 0].tolist() == [[0, 2], [3, 3], [0, 1]]
    assert reached.tolist() == [True, True, False]


def test_what_counts_as_a_step_and_where_growth_was() -> None:
    walk = Walk(torch.zeros(4, 1), 2.0)
    grown = torch.tensor([True, True, False, False])
    accepted = torch.tensor([True, False, True, False])
    radius = torch.where(grown, 2.6, 2.0)
    walk.take(torch.arange(4), torch.ones(4, 1), radius, grown, accepted, count_rejected=False)
    assert walk.since.tolist() == [0, 0, 1, 0]
    assert walk.x[:, 0].tolist() == [1, 0, 1, 0]
    walk.take(torch.arange(4), torch.full((4, 1), 2.0), radius, ~grown | grown, accepted, count_rejected=True)
    walk.take(torch.arange(4), torch.full((4, 1), 3.0), radius, grown & ~grown, accepted, count_rejected=True)
    assert walk.since.tolist() == [1, 1, 1, 1]
    assert walk.grown_at[:, 0].tolist() == [2, 0, 2, 0]
    assert walk.running(1, None).tolist() == []
    assert walk.running(None, 2.3).tolist() == [2, 3]


@pytest.fixture(params=["stylegan2", "dcgan"])
def where(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makers of contexts with and without a mapping network."""
    return context if request.param == "stylegan2" else test_gmi.context  # type: ignore[return-value]


def test_it_gets_by_with_labels_and_ends_inside_its_class(where: Any) -> None:
    here: Context = where(access=Access.LABELS)
    result = attack(replace(TINY, selection_transforms=0), here)
    assert result.labels.tolist() == [1, 1, 3, 3]
    inside = here.victim.labels(result.images) == result.labels
    assert inside.any()
    assert torch.equal(result.confidence > 0, inside)
    with pytest.raises(AccessError):
        here.victim.scores(result.images)
    assert BREP.access is Access.LABELS


def test_a_walk_grows_its_sphere() -> None:
    result = attack(replace(TINY, steps=30, radius=0.05))
    assert (result.curves["radius"][:, -1] > 0.05).all()
    assert (result.curves["radius"].diff(dim=1) >= 0).all()


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    together = attack(TINY, unbatched())
    assert same_bits(together, attack(TINY, unbatched(micro_batch=3)))
    alone = attack(TINY, unbatched(), LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=1e-5)


def asked(one: BREP) -> tuple[Queries, Queries, Reconstruction]:
    here, streams = context(Access.LABELS, micro_batch=7), Streams(3, ("test",))
    state = one.prepare(here, streams)
    prepared, here.victim.queries = here.victim.queries, Queries()
    result = one.reconstruct(here, state, LABELS, streams)
    return prepared, here.victim.queries, result


@pytest.mark.parametrize("change", [{}, {"selection_transforms": 0}, {"repulsion_only": False}], ids=str)
def test_it_asks_what_it_plans(change: dict[str, Any]) -> None:
    one = replace(TINY, **change)
    assert not one.stops_early
    assert asked(one)[:2] == (one.planned_preparation(), one.planned_queries(2))


@pytest.mark.parametrize("change", [{"patience": 2}, {"max_radius": 0.6}], ids=str)
def test_an_early_end_is_declared_counted_and_noted(change: dict[str, Any]) -> None:
    one = replace(TINY, steps=40, radius=0.5, **change)
    assert one.stops_early
    _, used, result = asked(one)
    ranked = 4 * one.selection_transforms
    assert ranked <= used.forward < one.planned_queries(2).forward
    assert (used.forward - ranked) % (one.directions + 1) == 0, "whole steps of the points that still run"
    assert any("stopped early" in note for note in result.notes)


def test_a_class_that_nothing_reaches_gets_confidence_0_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    here, streams = context(Access.LABELS), Streams(3, ("test",))
    state = TINY.prepare(here, streams)
    monkeypatch.setattr(here.victim, "labels", lambda images: torch.zeros(len(images), dtype=torch.int64))
    state = {**state, "labels": torch.zeros(48, dtype=torch.int64)}
    result = TINY.reconstruct(here, state, LABELS, streams)
    assert result.confidence.tolist() == [0.0] * 4
    assert torch.equal(result.latents[:2], state["points"][:2]), "samples of the prior as they are"
    assert any("calls no image of the pool by the class of 2 of 2" in note for note in result.notes)
    assert any("4 of 4 points never grew" in note for note in result.notes)


def test_the_result_is_the_last_growth_or_the_end() -> None:
    grown, last = (attack(replace(TINY, steps=20, radius=0.3, result=name)) for name in ("last_growth", "last"))
    assert torch.equal(grown.curves["radius"], last.curves["radius"])
    assert not torch.equal(grown.images, last.images)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"growth": 1.0}, "growth multiplies the radius"),
        ({"growth_share": 1.0}, "growth_share must lie in"),
        ({"patience": 0}, "patience must be positive"),
        ({"radius": -1.0}, "radius must be positive"),
        ({"directions": 0}, "directions must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)
