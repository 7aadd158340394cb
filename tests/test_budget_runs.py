"""The query budget: runs under one, and limits that hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerator import an_accelerator  # noqa: F401
from test_dmmia import CLASSES, SIZE, Classifier

import mibench
from mibench.api import Access, ImageSpec, MibenchError, Queries, QueryLimit, Victim
from mibench.runs.plan import Plan, make_plan
from mibench.runs.request import RunRequest

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}


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
