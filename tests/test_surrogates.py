"""Runs whose gradients are another network's, and variants of attacks: what a run records, counts and refuses."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import toyworld
from toyworld import build

import mibench
from mibench import registry
from mibench.api import MibenchError
from mibench.reports.compare import compare
from mibench.results import StoredRun
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.targets.defences.answer_filters import LabelOnly, Rounding
from mibench.weights.cards import find

TOY = {"target": "toynet+rounding", "dataset": "toyfaces", "protocol": "toy"}


@pytest.fixture
def world(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world with an attack that transfers, two filters, and a filtered target."""
    defences = {kind.name: f"{kind.__module__}:{kind.__qualname__}" for kind in (Rounding, LabelOnly)}
    offered = {"attack": {"toytransfer": "toyworld.transferring:ToyTransfer"}, "defence": defences}
    monkeypatch.setattr(toyworld, "TRANSFERRING", offered, raising=False)
    monkeypatch.setattr(build, "POINTS", (*build.POINTS, EntryPoint("t", "toyworld:TRANSFERRING", registry.GROUP)))
    registry.catalogue.cache_clear()
    mibench.train("target", "toynet", dataset="toyfaces", defences=("rounding",), device="cpu")
    return toy


def run(out: Path, attack: str, **changes: object) -> StoredRun:
    return mibench.run(attack, **{**TOY, "device": "cpu", "out": out, **changes})  # type: ignore[arg-type]


def plan(attack: str, **changes: object):  # type: ignore[no-untyped-def]
    return make_plan(RunRequest(attack=attack, **{**TOY, **changes}))  # type: ignore[arg-type]


def test_a_transfer_runs_where_gradients_are_refused_and_counts_apart(world: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "toytransfer:transfer")
    spec, cost = done.specification, done.cost()
    twin = find("target", "toynet", "toyfaces").card()
    assert (spec["attack"], spec["variant"]) == ("toytransfer", "transfer")
    assert spec["attack_settings"]["surrogate"] == "twin"
    assert (spec["surrogate"]["card"], spec["surrogate"]["sha256"]) == (twin.name, twin.weights.sha256)
    assert done.attack_title == "toytransfer:transfer"
    assert done.path.name.startswith("toytransfer-transfer-toynet+rounding-")
    made = plan("toytransfer:transfer")
    units = [len(unit) for unit in made.units]
    assert cost["attack"]["queries_forward"] == sum(made.attack.planned_queries(n).forward for n in units)
    assert cost["attack"]["queries_backward"] == 0
    shown = sum(made.attack.planned_surrogate_queries(n).forward for n in units)
    assert cost["surrogate"] == {"queries_forward": shown, "queries_backward": shown}
    with pytest.raises(MibenchError, match="bypasses"):
        run(tmp_path, "toytransfer")
    again = run(tmp_path, "toytransfer:transfer")
    assert again.reused
    assert mibench.score(done.path).metrics == done.metrics
    replay = mibench.run(config=done.path / "config.yaml", out=tmp_path / "again", device="cpu")
    assert replay.path.name == done.path.name


def test_without_surrogate_and_variant_records_are_what_they_were(world: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "toytransfer", target="toynet")
    spec = done.specification
    assert not {"variant", "surrogate"} & set(spec)
    assert "surrogate" not in spec["attack_settings"]
    assert "surrogate" not in done.cost()
    (unit, *_) = done.units
    assert not [fact for fact in unit.facts if fact.startswith("surrogate")]
    record = json.loads((done.path / "run.json").read_text())
    assert record["settings"]["attack.surrogate"] == {"value": None, "origin": "default", "by_user": False}


def test_the_surrogate_belongs_to_the_digest(world: Path) -> None:
    mibench.train("target", "toynet", dataset="toyfaces", tag="second", seed=5, device="cpu")
    setting = {"settings": {"attack": {"surrogate": "toynet+second"}}}
    digests = [plan("toytransfer:transfer").spec.digest(), plan("toytransfer", **setting).spec.digest()]
    assert len(set(digests)) == 2
    named = plan("toytransfer", settings={"attack": {"surrogate": "toynet"}})
    assert named.surrogate.name == "toynet@toyfaces"
    assert named.floor().spec.surrogate is None
    assert named.floor().spec.variant is None


def test_a_variant_lies_on_whichever_preset_is_used(world: Path) -> None:
    usual, long = plan("toytransfer:transfer"), plan("toytransfer:transfer", preset="long")
    assert [each.spec.attack_settings["steps"] for each in (usual, long)] == [4, 6]
    assert [each.spec.preset for each in (usual, long)] == ["usual", "long"]
    assert long.origins["attack.surrogate"].origin == "variant transfer (ours)"
    own = plan("toytransfer:transfer", settings={"attack": {"surrogate": None}}, target="toynet")
    assert own.spec.digest() == plan("toytransfer", target="toynet").spec.digest()


def test_a_budget_counts_what_the_surrogate_is_shown(world: Path) -> None:
    budget = {"settings": {"protocol": {"query_budget": 40}}}
    white, transfer = plan("toytransfer", target="toynet", **budget), plan("toytransfer:transfer", **budget)
    assert white.attack.steps == transfer.attack.steps > 1


def test_a_surrogate_has_the_limit_that_was_planned(world: Path, tmp_path: Path) -> None:
    settings = {"protocol.query_budget": 100, "attack.greedy": True}
    with pytest.raises(MibenchError, match="planned to show its surrogate"):
        run(tmp_path, "toytransfer:transfer", settings=settings)


@pytest.mark.parametrize(
    ("attack", "changes", "line"),
    [
        ("toytransfer:transfer", {"target": "toynet"}, "'toynet@toyfaces' is undefended"),
        ("toytransfer:nope", {}, "unknown variant of attack 'toytransfer' 'nope'"),
        ("toytransfer:long", {}, "preset of attack 'toytransfer', no variant; name it with --preset long"),
        ("toyattack:any", {}, "unknown variant of attack 'toyattack'"),
        ("toytransfer", {"settings": {"attack": {"surrogate": "missing"}}}, "missing"),
        ("toytransfer", {"target": "toynet", "settings": {"attack": {"surrogate": "toynet"}}}, "the target itself"),
        ("toytransfer", {"settings": {"attack": {"surrogate": "toynet+rounding"}}}, "gives no gradients"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(world: Path, attack: str, changes: dict[str, object], line: str) -> None:
    with pytest.raises(MibenchError) as caught:
        plan(attack, **changes)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_twin_that_was_trained_again_is_no_longer_the_twin(world: Path) -> None:
    from dataclasses import replace

    from mibench.weights.cards import write_card

    card = find("target", "toynet+rounding", "toyfaces").card()
    assert card.defence is not None
    write_card(replace(card, defence=replace(card.defence, twin_sha256="0" * 64)), world / "cards")
    with pytest.raises(MibenchError, match="has other weights now"):
        plan("toytransfer:transfer")


def test_tables_call_a_variant_by_its_name(world: Path, tmp_path: Path) -> None:
    run(tmp_path, "toytransfer:transfer")
    comparison = compare(tmp_path)
    assert "toytransfer:transfer" in {row.label for row in comparison.rows}
