"""The query budget: the setting that it decides, and the protocols that have one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from torch import Tensor

from mibench import registry
from mibench import settings as config
from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction
from mibench.rng import Streams
from mibench.runs.budget import planned_total, within_budget
from mibench.runs.plan import make_plan
from mibench.runs.protocol import load_protocol
from mibench.runs.request import RunRequest
from mibench.runs.spec import EvalProtocol
from mibench.settings import Layer, Setting


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


@pytest.mark.parametrize("name", [name for name in registry.names("attack") if name not in ("ceiling", "floor")])
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
