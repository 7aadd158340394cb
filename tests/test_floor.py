"""The floor of a run is the run itself with another attack: however it was asked for, it is the same floor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from mibench.attacks.dmmia import DMMIA
from mibench.runs.plan import Plan, make_plan
from mibench.runs.request import RunRequest

ASKED = [
    RunRequest(attack="dmmia", protocol="smoke"),
    RunRequest(attack="dmmia", protocol="demo", preset="paper", seed=3),
    RunRequest(attack="gmi", protocol="standard", preset="lomma"),  # the floor has no preset of that name
    RunRequest(attack="gmi", protocol="equal", settings={"attack": {"selection_transforms": 3}}),
    RunRequest(attack="ppa", protocol="demo", settings={"attack": {"pool_size": 64, "unit_size": 5, "epochs": 3}}),
    RunRequest(
        attack="kedmi", protocol="demo", settings={"protocol": {"identities": 4}, "prior": {}, "attack": {"draws": 9}}
    ),
]
NAMES = [f"{one.attack} {one.protocol} {one.preset}" for one in ASKED]


def floor_of(request: RunRequest) -> tuple[Plan, Plan]:
    plan = make_plan(request)
    floor = plan.floor()
    assert floor is not None
    return plan, floor


@pytest.mark.parametrize("request_", ASKED, ids=NAMES)
def test_flags_a_file_of_ones_own_and_the_configuration_of_the_run_lead_to_one_floor(
    request_: RunRequest, tmp_path: Path
) -> None:
    plan, floor = floor_of(request_)
    own, saved = tmp_path / "own.yaml", tmp_path / "config.yaml"
    own.write_text(yaml.safe_dump({k: v for k, v in dataclasses.asdict(request_).items() if v is not None}))
    saved.write_text(plan.config_yaml)
    for file in (own, saved):
        plan_again, floor_again = floor_of(RunRequest(config=file))
        assert plan_again.spec.digest() == plan.spec.digest()
        assert floor_again.spec.digest() == floor.spec.digest(), file.name
        assert floor_again.spec.preset == floor.spec.preset
    saved.write_text(floor.config_yaml)
    again = make_plan(RunRequest(config=saved))
    assert again.spec.digest() == floor.spec.digest()
    assert again.floor() is None


def test_the_floor_differs_in_its_attack_alone() -> None:
    plan, floor = floor_of(RunRequest(attack="gmi", settings={"attack": {"selection_transforms": 3}}, seed=5))
    changed = {"attack", "attack_settings", "attack_code", "preset"}
    for field in dataclasses.fields(plan.spec):
        if field.name not in changed:
            assert getattr(floor.spec, field.name) == getattr(plan.spec, field.name), field.name
    assert (floor.target, floor.judge, floor.prior, floor.dataset) == (
        plan.target,
        plan.judge,
        plan.prior,
        plan.dataset,
    )
    assert floor.spec.attack_settings["selection_transforms"] == 3
    assert floor.origins["attack.selection_transforms"].by_user
    assert not floor.origins["attack.pool_size"].by_user


def test_a_configuration_keeps_what_was_asked_apart_from_what_followed(tmp_path: Path) -> None:
    plan = make_plan(RunRequest(protocol="equal", settings={"attack": {"candidates": 8}, "protocol": {"samples": 8}}))
    content = yaml.safe_load(plan.config_yaml)
    assert content["settings"] == {"attack": {"candidates": 8}, "protocol": {"samples": 8}}
    assert "candidates" not in content["resolved"]["attack"]
    recorded = {*plan.spec.attack_settings, *DMMIA.later_settings}  # records leave later ones at their default out
    assert {*content["settings"]["attack"], *content["resolved"]["attack"]} == recorded
    saved = tmp_path / "config.yaml"
    saved.write_text(plan.config_yaml)
    again = make_plan(RunRequest(config=saved))
    assert {name for name, s in again.origins.items() if s.by_user} == {"attack.candidates", "protocol.samples"}
    other = make_plan(RunRequest(config=saved, preset="demo"))
    assert other.spec.preset == "demo", "a preset that is asked for goes before what another one left in the file"
