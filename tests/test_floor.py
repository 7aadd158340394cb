"""The floor of a run is the same however the run was asked for, and follows from what a person chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_engine import TOY, result_files, toy_run
from yaml import safe_dump, safe_load

import mibench
from mibench.api import MibenchError
from mibench.runs.plan import Request, make_plan
from mibench.runs.run import floor_plan

ASKED: list[dict[str, Any]] = [
    {"preset": "many"},
    {"preset": "many", "settings": {"attack": {"samples": 2}, "protocol": {"identities": 4}}},
    {"settings": {"attack": {"samples": 3, "steps": 5}, "protocol": {"query_budget": 80, "identities": 2}}, "seed": 3},
]


def floor_of(out: Path, **asked: Any) -> tuple[str, dict[str, bytes]]:
    found = mibench.run(out=out, device="cpu", **asked)
    assert found.floor is not None
    return found.floor.path.name, result_files(found.floor.path)


@pytest.mark.parametrize("asked", ASKED)
def test_the_floor_s_bytes_agree_however_the_run_was_asked_for(
    toy: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    first = toy_run(tmp_path / "flags", **asked)
    assert first.floor is not None
    expected = first.floor.path.name, result_files(first.floor.path)
    assert floor_of(tmp_path / "again", config=first.path / "config.yaml") == expected
    mine = tmp_path / "mine.yaml"
    mine.write_text(safe_dump({"attack": "toyattack", **TOY, **asked}))
    assert floor_of(tmp_path / "mine", config=mine) == expected
    of_floor = mibench.run(out=tmp_path / "floor", device="cpu", config=first.floor.path / "config.yaml")
    assert (of_floor.path.name, result_files(of_floor.path)) == expected
    second = next(path for path in (tmp_path / "again").iterdir() if path.name == first.path.name)
    assert result_files(second) == result_files(first.path)


def test_a_run_that_goes_on_keeps_its_floor(toy: Path, tmp_path: Path) -> None:
    first = toy_run(tmp_path, preset="many")
    (first.path / "metrics.json").unlink()
    again = mibench.run(config=first.path / "config.yaml", out=tmp_path, device="cpu")
    assert not again.reused
    assert again.path == first.path
    assert again.floor is not None
    assert first.floor is not None
    assert again.floor.path == first.floor.path


def test_a_shipped_attack_s_preset_stays_out_of_its_floor(tmp_path: Path) -> None:
    by_flags = make_plan(Request(protocol="standard", settings={"attack": {"truncation": 0.6}}))
    file = tmp_path / "config.yaml"
    file.write_text(by_flags.config_text())
    by_file = make_plan(Request(config=file))
    assert floor_plan(by_file).spec == floor_plan(by_flags).spec
    assert floor_plan(by_flags).spec.attack_settings["truncation"] == 0.6
    assert by_file.config_text() == by_flags.config_text()


def test_what_a_person_adds_to_a_file_goes_to_the_floor_as_well(toy: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(make_plan(Request(attack="toyattack", **TOY, preset="many")).config_text())
    plan = make_plan(Request(config=file, settings={"attack": {"samples": 5}}))
    assert floor_plan(plan).spec.attack_settings["samples"] == 5
    assert safe_load(plan.config_text())["chosen"] == ["attack.samples"]
    assert floor_plan(make_plan(Request(config=file))).spec.attack_settings["samples"] == 3
    assert make_plan(Request(config=file)).spec.attack_settings["samples"] == 4


@pytest.mark.parametrize("said", ["[attack.nope]", "attack.steps", "{}", "[[1]]", "[dataset.seed]"])
def test_a_list_of_what_was_chosen_that_is_none_is_refused(toy: Path, tmp_path: Path, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"attack: toyattack\nchosen: {said}\nsettings: {{attack: {{steps: 3}}}}\n")
    with pytest.raises(MibenchError, match=r"mine\.yaml: chosen: expected a list of names out of settings\.attack"):
        make_plan(Request(config=file, target="toynet", dataset="toyfaces", protocol="toy"))
