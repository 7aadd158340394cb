"""The query budget: plans that are exact, the setting that a budget decides, limits that hold."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import test_gmi
import torch
from accelerator import an_accelerator  # noqa: F401
from test_dmmia import CLASSES, SIZE, TINY, Classifier, context
from torch import Tensor

import mibench
from mibench import registry
from mibench import settings as config
from mibench.api import Access, Attack, Context, ImageSpec, MibenchError, Queries, QueryLimit, Reconstruction, Victim
from mibench.attacks.floor import Floor
from mibench.attacks.gmi import GMI
from mibench.attacks.kedmi import KEDMI
from mibench.attacks.mirror_b import MirrorBlack
from mibench.attacks.mirror_w import MirrorWhite
from mibench.attacks.ppa import PPA
from mibench.rng import Streams
from mibench.runs.budget import planned_total, within_budget
from mibench.runs.plan import Plan, make_plan
from mibench.runs.protocol import load_protocol
from mibench.runs.request import RunRequest
from mibench.runs.spec import EvalProtocol
from mibench.settings import Layer, Setting

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}


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


def tiny_mirror_b() -> tuple[Attack, Context]:
    small = {"pool_size": 16, "candidates": 3, "population": 6, "generations": 3, "selection_transforms": 2}
    return MirrorBlack(**small, stop_confidence=None), context()  # type: ignore[arg-type]


def tiny_mirror_w() -> tuple[Attack, Context]:
    return MirrorWhite(pool_size=16, candidates=3, steps=3, selection_transforms=2), context()


# How every registered attack is tried: a name that is missing here fails, so a new attack cannot be forgotten.
TRIED: dict[str, Callable[[], tuple[Attack, Context]]] = {
    "dmmia": tiny_dmmia,
    "floor": tiny_floor,
    "gmi": tiny_gmi,
    "kedmi": tiny_kedmi,
    "mirror-b": tiny_mirror_b,
    "mirror-w": tiny_mirror_w,
    "ppa": tiny_ppa,
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
        assert name == "floor", "an attack that optimises has a setting that a budget can decide"
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


# -- which setting a budget allows ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Paper(Attack):
    """An attack that only plans: 2 * steps images for each identity and whatever else it is told."""

    name: ClassVar[str] = "paper"
    access: ClassVar[Access] = Access.GRADIENTS
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 4
    steps: int = 10
    pool: int = 30
    least: int = 1
    most: int = 10**9
    grows: bool = True
    certain: bool = True

    def __post_init__(self) -> None:
        if not self.least <= self.steps <= self.most:
            raise MibenchError(f"paper: steps must lie in [{self.least}, {self.most}], got {self.steps}")

    def planned_preparation(self) -> Queries:
        return Queries(self.pool)

    def planned_queries(self, identities: int) -> Queries | None:
        steps = self.steps if self.grows else 1
        return Queries(1 + identities * steps, identities * steps) if self.certain else None

    def reconstruct(self, context: Context, state: Any, labels: Tensor, streams: Streams) -> Reconstruction:
        raise NotImplementedError


def protocol(budget: int | None, identities: int = 10) -> EvalProtocol:
    return EvalProtocol(
        name="p", prior="toygan", judge="toyjudge", identities=identities, samples=1, query_budget=budget
    )


def resolved(budget: int | None, **settings: Any) -> tuple[Attack, Setting]:
    """The attack under a budget, and the origin of its steps, where a person said ``settings``."""
    attack, origins = config.resolve(
        Paper, [Layer("preset", {"steps": 10}), Layer("--set", settings, by_user=True)], scope="attack"
    )
    found, origins = within_budget(attack, origins, protocol(budget))
    return found, origins["steps"]


def fits(attack: Attack, budget: int) -> bool:
    total = planned_total(attack, protocol(budget))
    assert total is not None
    return total.forward + total.backward <= 10 * budget


@pytest.mark.parametrize("budget", [6, 7, 20, 23, 24, 25, 999, 123_456])
def test_the_largest_setting_that_fits_is_chosen(budget: int) -> None:
    found, setting = resolved(budget)
    assert isinstance(found, Paper)
    assert setting == Setting(found.steps, "budget of protocol p v1")
    assert fits(found, budget)
    assert not fits(dataclasses.replace(found, steps=found.steps + 1), budget)


def test_the_whole_run_is_counted_with_its_smaller_last_unit() -> None:
    # 30 of the pool, units of 4, 4 and 2 identities with one image more each, 10 identities with 10 steps both ways
    assert planned_total(Paper(), protocol(None)) == Queries(30 + 3 + 100, 100)


def test_without_a_budget_nothing_changes() -> None:
    found, setting = resolved(None)
    assert found == Paper()
    assert setting.origin == "preset"


def test_what_a_person_says_is_kept_when_it_fits() -> None:
    found, setting = resolved(24, steps=3)
    assert isinstance(found, Paper)
    assert found.steps == 3
    assert setting.origin == "--set"


def test_what_a_person_says_is_refused_when_it_does_not_fit() -> None:
    with pytest.raises(
        MibenchError,
        match=r"attack 'paper' with steps=12 shows its victim 28 images per identity \(forwards plus backwards, "
        r"preparation included\), protocol 'p v1' allows 24; leave attack\.steps to the budget, or lower "
        r"attack\.pool, or --set protocol\.query_budget=28$",
    ):
        resolved(24, steps=12)


def test_the_budget_that_a_message_names_is_enough() -> None:
    found, _ = resolved(28, steps=12)
    assert found == Paper(steps=12)


def test_what_never_fits_is_refused_with_what_would_lower_it() -> None:
    with pytest.raises(
        MibenchError,
        match=r"attack 'paper' even with steps=1 shows its victim 6 images .* allows 5; lower attack\.pool, "
        r"or --set protocol\.query_budget=6$",
    ) as caught:
        resolved(5)
    assert "\n" not in str(caught.value)


def test_settings_that_an_attack_refuses_bound_the_search() -> None:
    assert resolved(1000, most=37)[0] == Paper(steps=37, most=37)
    assert resolved(1000, most=10)[0] == Paper(steps=10, most=10)
    assert resolved(18, least=5)[0] == Paper(steps=7, least=5)
    with pytest.raises(MibenchError, match=r"even with steps=8 shows its victim 20 images"):
        resolved(19, least=8)


def test_an_attack_that_cannot_plan_is_refused_under_a_budget_only() -> None:
    assert resolved(None, certain=False)[0] == Paper(certain=False)
    with pytest.raises(MibenchError, match=r"'paper' with these settings cannot say .*query_budget=null"):
        resolved(20, certain=False)


def test_a_setting_that_decides_nothing_does_not_search_for_ever() -> None:
    with pytest.raises(MibenchError, match="planned_queries must grow with steps"):
        resolved(20, grows=False)


def test_an_attack_without_a_budget_setting_fits_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paper, "budget_setting", None)
    assert resolved(24)[0] == Paper()
    with pytest.raises(MibenchError, match=r"attack 'paper' shows its victim 24 images .* allows 23; lower"):
        resolved(23)


# -- protocols ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "smoke", "standard"])
def test_a_protocol_without_a_budget_is_the_protocol_it_was(name: str) -> None:
    found, _ = load_protocol(name)
    assert found.query_budget is None
    assert "query_budget" not in found.digest_fields()
    assert dataclasses.replace(found, query_budget=5).digest_fields() == {**found.digest_fields(), "query_budget": 5}


def test_a_run_without_a_budget_keeps_its_name() -> None:
    plan = make_plan(RunRequest())
    assert plan.spec.protocol.name == "demo"
    assert set(plan.spec.protocol.digest_fields()) == {
        *("name", "version", "identities", "first_identity", "samples", "access", "prior", "judge", "regressor"),
        *("metrics", "required", "public_control"),
    }


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(MibenchError, match=r"protocol\.query_budget must be at least 1, or null for none, got 0"):
        protocol(0)


def test_equal_gives_everybody_what_dmmia_recommended_asks_at_standard() -> None:
    equal, _ = load_protocol("equal")
    standard, _ = load_protocol("standard")
    apart = {"name": "equal", "description": equal.description, "query_budget": equal.query_budget}
    assert equal == dataclasses.replace(standard, **apart)
    kind = registry.load("attack", "dmmia")
    recommended, _ = config.resolve(kind, [config.attack_presets("dmmia").presets["recommended"]], scope="attack")
    total = planned_total(recommended, standard)
    assert total is not None
    assert equal.query_budget == -(-(total.forward + total.backward) // 50)
    plan = make_plan(RunRequest(protocol="equal"))
    assert plan.attack == recommended
    assert plan.origins["attack.epochs"] == Setting(30, "budget of protocol equal v1")


@pytest.mark.parametrize("name", [name for name in registry.names("attack") if name != "floor"])
def test_every_shipped_attack_uses_up_the_budget_of_equal(name: str) -> None:
    equal, _ = load_protocol("equal")
    kind = registry.load("attack", name)
    presets = config.attack_presets(name)
    start, origins = config.resolve(kind, [presets.presets[equal.preset or ""]], scope="attack")
    found, _ = within_budget(start, origins, equal)
    total = planned_total(found, equal)
    assert total is not None
    used = (total.forward + total.backward) / equal.identities
    assert 0.9 * equal.query_budget < used <= equal.query_budget  # type: ignore[operator]


# -- runs -----------------------------------------------------------------------------------------------------------


def toy_plan(**request: Any) -> Plan:
    return make_plan(RunRequest(attack="toyattack", **TOY, **request))


def test_a_run_under_a_budget_records_it_and_its_configuration_repeats_it(toy: Path, tmp_path: Path) -> None:
    settings = {"protocol.query_budget": 80}
    found = mibench.run("toyattack", **TOY, out=tmp_path / "a", device="cpu", settings=settings)
    record = json.loads((found.path / "run.json").read_text())
    # 3 samples, shown forwards 14 times and backwards 13 times, are 81 images: 12 steps fit
    assert record["settings"]["attack.steps"] == {
        "value": 12,
        "origin": "budget of protocol toy (changed) v3",
        "by_user": False,
    }
    assert record["spec"]["attack_settings"]["steps"] == 12
    assert record["spec"]["protocol"]["query_budget"] == 80
    again = mibench.run(config=found.path / "config.yaml", out=tmp_path / "b", device="cpu")
    assert json.loads((again.path / "run.json").read_text())["digest"] == record["digest"]
    assert found.floor is not None
    assert again.floor is not None
    assert again.floor.path.name == found.floor.path.name


def test_a_budget_is_part_of_what_a_run_is(toy: Path) -> None:
    plain, tight = toy_plan(), toy_plan(settings={"protocol": {"query_budget": 80}})
    assert plain.attack == tight.attack
    assert plain.spec.digest() != tight.spec.digest()


def test_the_budget_replaces_a_preset_but_not_what_is_set(toy: Path, tmp_path: Path) -> None:
    budget = {"protocol": {"query_budget": 200}}
    assert toy_plan(settings=budget, preset="slow").spec.attack_settings["steps"] == 32
    assert toy_plan(settings={**budget, "attack": {"steps": 5}}).spec.attack_settings["steps"] == 5
    file = tmp_path / "my.yaml"
    file.write_text("settings: {attack: {steps: 7}}\n")
    plan = toy_plan(settings=budget, config=file)
    assert plan.spec.attack_settings["steps"] == 7
    assert plan.origins["attack.steps"].origin == str(file)
    with pytest.raises(
        MibenchError, match=r"toyattack' with steps=90 shows its victim 543 .* allows 200; leave attack.steps to"
    ):
        toy_plan(settings={**budget, "attack": {"steps": 90}})


def test_a_floor_that_does_not_fit_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=r"attack 'floor' shows its victim 3 images per identity .* allows 2; lower"):
        make_plan(RunRequest(attack="floor", **TOY, settings={"protocol": {"query_budget": 2}}))


def test_more_than_was_planned_is_refused_while_it_happens(toy: Path, tmp_path: Path) -> None:
    settings = {"attack.fault": "greed", "attack.unit_size": 4}
    mibench.run("badattack", **TOY, out=tmp_path, device="cpu", settings=settings)  # no budget, no limit
    with pytest.raises(
        MibenchError, match=r"'badattack' planned to show the victim 8 images forwards in unit 0 and asked for 9; "
    ):
        mibench.run("badattack", **TOY, out=tmp_path, device="cpu", settings={**settings, "protocol.query_budget": 9})


def test_a_try_that_ran_out_of_memory_does_not_use_up_the_budget(toy: Path, tmp_path: Path) -> None:
    settings = {"attack.fault": "memory", "attack.unit_size": 6, "protocol.query_budget": 3}
    found = mibench.run("badattack", **TOY, out=tmp_path, device="cpu", settings=settings)
    assert json.loads((found.path / "units" / "000.json").read_text())["micro_batch"] == 4


def victim(forward: int, backward: int) -> Victim:
    found = Victim(Classifier(), image=ImageSpec(SIZE), num_classes=CLASSES, access=Access.GRADIENTS)
    found.limit = QueryLimit("mine", "unit 3", forward, backward)
    return found


def test_a_limit_holds_forwards_and_does_not_count_what_it_refused() -> None:
    found = victim(5, 0)
    found.labels(torch.rand(5, 3, SIZE, SIZE))
    with pytest.raises(MibenchError, match=r"'mine' planned .* 5 images forwards in unit 3 and asked for 7"):
        found.scores(torch.rand(2, 3, SIZE, SIZE))
    assert found.queries == Queries(5, 0)


def test_a_limit_holds_backwards() -> None:
    found = victim(8, 4)
    images = torch.rand(4, 3, SIZE, SIZE, requires_grad=True)
    found.logits(images).sum().backward()
    with pytest.raises(MibenchError, match=r"'mine' planned .* 4 images backwards in unit 3 and asked for 8"):
        found.logits(images).sum().backward()
    assert found.queries == Queries(8, 4)


@pytest.mark.gpu
def test_a_limit_holds_backwards_on_a_gpu(accelerator: torch.device) -> None:
    found = victim(4, 3)
    found._network.to(accelerator)
    images = torch.rand(4, 3, SIZE, SIZE, device=accelerator, requires_grad=True)
    with pytest.raises(MibenchError, match=r"3 images backwards in unit 3 and asked for 4"):
        found.logits(images).sum().backward()
