"""The query budget: an attack asks exactly what it plans."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import test_deepinversion
import test_gmi
import test_lomma
import test_plgmi
import test_ppdg
import test_vmi
import torch
from test_dmmia import TINY, context
from torch import Tensor

from mibench import registry
from mibench.api import Attack, Context, Queries
from mibench.attacks.brep import BREP
from mibench.attacks.c2fmi import C2FMI
from mibench.attacks.ceiling import Ceiling
from mibench.attacks.consensus import Consensus
from mibench.attacks.deepinversion import DeepInversion
from mibench.attacks.floor import Floor
from mibench.attacks.gmi import GMI
from mibench.attacks.if_gmi import IFGMI
from mibench.attacks.kedmi import KEDMI
from mibench.attacks.lokt_pool import LOKTPool
from mibench.attacks.miface import MIFace
from mibench.attacks.mirror_b import MirrorBlack
from mibench.attacks.mirror_w import MirrorWhite
from mibench.attacks.ppa import PPA
from mibench.attacks.rlb import RLB
from mibench.attacks.smile import SMILE
from mibench.rng import Streams


def tiny_floor() -> tuple[Attack, Context]:
    return Floor(pool_size=20, candidates=3, selection_transforms=2), context()


def tiny_dmmia() -> tuple[Attack, Context]:
    return TINY, context()


def tiny_ppa() -> tuple[Attack, Context]:
    small = {"pool_size": 16, "candidates": 4, "epochs": 3, "batch_size": 3, "selection_transforms": 2}
    return PPA(**small), context()  # type: ignore[arg-type]


def tiny_gmi() -> tuple[Attack, Context]:
    return GMI(restarts=4, best_of=2, iterations=3, selection_transforms=2), test_gmi.context()


def tiny_kedmi() -> tuple[Attack, Context]:
    return KEDMI(draws=2, iterations=3, samples_per_step=2), test_gmi.context()


def tiny_lomma_gmi() -> tuple[Attack, Context]:
    return dataclasses.replace(test_lomma.TINY_GMI, iterations=2), test_lomma.place()


def tiny_lomma_kedmi() -> tuple[Attack, Context]:
    return dataclasses.replace(test_lomma.TINY_KEDMI, iterations=2), test_lomma.place()


def tiny_mirror_b() -> tuple[Attack, Context]:
    small = {"pool_size": 16, "candidates": 3, "population": 6, "generations": 3, "selection_transforms": 2}
    return MirrorBlack(**small, stop_confidence=None), context()  # type: ignore[arg-type]


def tiny_mirror_w() -> tuple[Attack, Context]:
    return MirrorWhite(pool_size=16, candidates=3, steps=3, selection_transforms=2), context()


def tiny_ceiling() -> tuple[Attack, Context]:
    small = {"portraits": 2, "pool_size": 4, "restarts": 2, "trial_steps": 2, "steps": 3}

    def portraits(labels: Tensor, count: int) -> Tensor:
        size = where.victim.image.size
        return torch.rand(len(labels), count, 3, size, size, generator=torch.Generator().manual_seed(0))

    where = context()
    return Ceiling(**small), dataclasses.replace(where, portraits=portraits)  # type: ignore[arg-type]


def tiny_consensus() -> tuple[Attack, Context]:
    return Consensus(pool_size=16, candidates=3, steps=4, subset=2, selection_transforms=2), context()


def tiny_brep() -> tuple[Attack, Context]:
    return BREP(pool_size=16, restarts=2, directions=3, steps=3, patience=None, selection_transforms=2), context()


def tiny_c2fmi() -> tuple[Attack, Context]:
    small = {"pool_size": 16, "starts": 3, "population": 5, "generations": 3, "candidates": 2}
    return C2FMI(**small, selection_transforms=2), context()  # type: ignore[arg-type]


def tiny_deepinversion() -> tuple[Attack, Context]:
    return DeepInversion(restarts=1, steps=3, jitter=1), test_deepinversion.context()


def tiny_if_gmi() -> tuple[Attack, Context]:
    return IFGMI(pool_size=16, candidates=3, steps=5, stages=3, stage_steps=1, selection_transforms=2), context()


def tiny_lokt_pool() -> tuple[Attack, Context]:
    trained = {"surrogates": ("small",), "width": 2, "training_steps": 2, "training_batch": 8}
    return LOKTPool(pool_size=16, candidates=3, steps=2, selection_transforms=2, **trained), context()  # type: ignore[arg-type]


def tiny_miface() -> tuple[Attack, Context]:
    return MIFace(restarts=2, steps=3, patience=None, threshold=None, start="uniform"), test_gmi.context()


def tiny_ppdg() -> tuple[Attack, Context]:
    return test_ppdg.TINY, test_ppdg.context()


def tiny_plgmi() -> tuple[Attack, Context]:
    return test_plgmi.TINY, test_plgmi.place()


def tiny_rlb() -> tuple[Attack, Context]:
    return RLB(candidates=2, episodes=5, hidden=8, batch_size=2, selection_transforms=2), test_gmi.context()


def tiny_smile() -> tuple[Attack, Context]:
    small = {"pool_size": 16, "width": 2, "training_steps": 2, "training_batch": 8, "starts": 2, "steps": 2}
    searched = {"population": 4, "generations": 3, "candidates": 2, "selection_transforms": 2}
    return SMILE(**small, **searched), context()  # type: ignore[arg-type]


def tiny_vmi() -> tuple[Attack, Context]:
    return test_vmi.TINY, context()


# How every registered attack is tried: a name that is missing here fails, so a new attack cannot be forgotten.
TRIED: dict[str, Callable[[], tuple[Attack, Context]]] = {
    "brep": tiny_brep,
    "c2fmi": tiny_c2fmi,
    "ceiling": tiny_ceiling,
    "consensus": tiny_consensus,
    "deepinversion": tiny_deepinversion,
    "dmmia": tiny_dmmia,
    "floor": tiny_floor,
    "gmi": tiny_gmi,
    "if-gmi": tiny_if_gmi,
    "kedmi": tiny_kedmi,
    "lomma-gmi": tiny_lomma_gmi,
    "lomma-kedmi": tiny_lomma_kedmi,
    "lokt-pool": tiny_lokt_pool,
    "miface": tiny_miface,
    "mirror-b": tiny_mirror_b,
    "mirror-w": tiny_mirror_w,
    "plgmi": tiny_plgmi,
    "ppa": tiny_ppa,
    "ppdg": tiny_ppdg,
    "rlb": tiny_rlb,
    "smile": tiny_smile,
    "vmi": tiny_vmi,
}


def measured(attack: Attack, where: Context, labels: Tensor) -> tuple[Queries, Queries]:
    """Images shown by the preparation and by one unit."""
    streams = Streams(3, ("test",))
    where.victim.queries = Queries()
    state = attack.prepare(where, streams)
    prepared, where.victim.queries = where.victim.queries, Queries()
    attack.reconstruct(where, state, labels, streams)
    return prepared, where.victim.queries


@pytest.mark.parametrize("micro_batch", [3, 256])
@pytest.mark.parametrize("identities", [1, 3])
@pytest.mark.parametrize("name", registry.names("attack"))
def test_every_attack_asks_what_it_plans(name: str, identities: int, micro_batch: int) -> None:
    assert name in TRIED, f"add attack {name!r} to TRIED, with settings that take a second"
    attack, where = TRIED[name]()
    where = dataclasses.replace(where, micro_batch=micro_batch)
    found = measured(attack, where, torch.arange(identities))
    assert not attack.stops_early, f"try {name!r} with its early stop switched off, and test the stop beside it"
    assert found == (attack.planned_preparation(), attack.planned_queries(identities))


@pytest.mark.parametrize("name", registry.names("attack"))
def test_a_budget_setting_is_a_whole_number_that_costs_queries(name: str) -> None:
    attack, _ = TRIED[name]()
    if attack.budget_setting is None:
        assert name == "floor" or attack.needs_portraits, (
            "an attack that optimises has a setting that a budget can decide"
        )
        return
    value = getattr(attack, attack.budget_setting)
    assert type(value) is int
    more = dataclasses.replace(attack, **{attack.budget_setting: 2 * value})
    before, after = attack.planned_queries(2), more.planned_queries(2)
    assert before is not None
    assert after is not None
    assert after.forward + after.backward > before.forward + before.backward


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "order": [{}, {"order": "sequential"}, {"order": "sequential", "memory_scope": "identity"}],
    "memory": [{}, {"memory_start": "warm"}, {"memory_first": True}, {"lambda_idr": 0.0, "memory_first": True}],
    "prototypes": [{}, {"prototype_features": "after"}, {"prototype_features": "after", "lambda_imr": 0.0}],
    "pools": [{}, {"resample_every": 1}, {"resample_every": 2, "selection_transforms": 0}],
}
PLACE = context()  # made once: a grid of options needs no network of its own for each


def pairwise() -> set[int]:
    """Numbers of combinations that hold every pair of two options between them."""
    combinations = list(itertools.product(*(range(len(levels)) for levels in OPTIONS.values())))

    def pairs(combination: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(combination), 2))

    missing = set().union(*map(pairs, combinations))
    kept: set[int] = set()
    while missing:
        best = max(range(len(combinations)), key=lambda number: len(pairs(combinations[number]) & missing))
        kept.add(best)
        missing -= pairs(combinations[best])
    return kept


QUICK = pairwise()
COMBINATIONS = [
    pytest.param(chosen, id=str(chosen), marks=() if number in QUICK else pytest.mark.slow)
    for number, chosen in enumerate(itertools.product(*OPTIONS.values()))
]


@pytest.mark.parametrize("chosen", COMBINATIONS)
def test_dmmia_asks_what_it_plans_with_every_option(chosen: tuple[dict[str, Any], ...]) -> None:
    settings = {name: value for part in chosen for name, value in part.items()}
    attack = dataclasses.replace(TINY, pool_size=8, candidates=3, **settings)
    found = measured(attack, PLACE, torch.tensor([1, 4, 0]))
    assert found == (attack.planned_preparation(), attack.planned_queries(3))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimise": "w"},
        {"scope": "shared"},
        {"memory_start": "warm", "lambda_idr": 0.0},
        {"prototype_features": "after", "prototype_gradient_scale": 0.0},
        {"epochs": 5, "resample_every": 2},
        {"epochs": 1, "resample_every": 1, "batch_size": 5},
    ],
    ids=str,
)
def test_dmmia_asks_what_it_plans_at_the_edges(settings: dict[str, Any]) -> None:
    attack = dataclasses.replace(TINY, pool_size=8, **settings)
    found = measured(attack, PLACE, torch.tensor([2, 3]))
    assert found == (attack.planned_preparation(), attack.planned_queries(2))


def test_a_floor_without_views_or_with_a_small_pool_asks_what_it_plans() -> None:
    for attack in (Floor(pool_size=5, candidates=9), Floor(pool_size=5, candidates=2, selection_transforms=0)):
        found = measured(attack, PLACE, torch.tensor([2, 3]))
        assert found == (attack.planned_preparation(), attack.planned_queries(2))
