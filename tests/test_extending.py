"""The examples of ``docs/extending.md`` work as they are printed."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import test_scoring
import torch
import yaml
from test_contract import usual_size

from mibench import plugins, registry, settings
from mibench.api import Access, ClassifierOutput, Context, Estimate, Measured, Metric, Queries, Victim
from mibench.metrics import DEFAULT_METRICS
from mibench.metrics.inputs import ScoringInputs
from mibench.rng import Streams
from mibench.runs.budget import planned_total
from mibench.runs.protocol import load_protocol

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the page prints, below the name that stands before it."""
    folder = tmp_path_factory.mktemp("examples")
    for said, text in re.findall(r"([^\n]+)\n\n```(?:python|yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        named = re.search(r"`([\w/]+\.(?:py|yaml))`", said)
        if named is None:
            continue
        name = named[1]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        if name.endswith(".py") and not (folder / name).with_name("__init__.py").exists():
            (folder / name).with_name("__init__.py").write_text("")
    return folder


@pytest.fixture(autouse=True)
def importable(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(examples))
    monkeypatch.setenv(plugins.VARIABLE, "")


def test_the_page_prints_every_file(examples: Path) -> None:
    found = {path.relative_to(examples).as_posix() for path in examples.rglob("*.*") if path.stat().st_size}
    assert {"hillclimb/__init__.py", "hillclimb/attack.py", "hillclimb/presets/hillclimb.yaml"} <= found
    assert {"squares/__init__.py", "squares/data.py", "squares/target.py", "squares/training.py"} <= found
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        ast.parse(block)


def hill_climb(examples: Path) -> Any:
    return registry.load("attack", f"{examples / 'hillclimb' / 'attack.py'}:HillClimb")


def test_the_attack_asks_what_it_planned(toy: Path, examples: Path) -> None:
    kind = hill_climb(examples)
    attack = kind(steps=3, samples=2)
    where = victim_and_prior()
    labels = torch.tensor([0, 2, 3])
    assert attack.prepare(where, Streams(0, ("test",))) == {}
    result = attack.reconstruct(where, {}, labels, Streams(0, ("test",)))
    asked = where.victim.queries
    assert attack.planned_queries(3) == Queries(asked.forward, asked.backward)
    assert result.labels.tolist() == [0, 0, 2, 2, 3, 3]
    protocol, _ = load_protocol("toy")
    assert planned_total(attack, protocol.resolved(6)) is not None
    again = attack.reconstruct(victim_and_prior(), {}, labels, Streams(0, ("test",)))
    assert torch.equal(result.images, again.images)


def victim_and_prior() -> Context:
    from mibench.weights import cards, load

    target, prior = cards.find("target", "toynet", "toyfaces"), cards.find("prior", "toygan", "toyfaces")
    device = torch.device("cpu")
    victim: Victim = load.build_victim(target, Access.SCORES, device)
    return Context(victim=victim, prior=load.build_prior(prior, {}, device), device=device)


def test_its_presets_are_valid(examples: Path) -> None:
    content = yaml.safe_load((examples / "hillclimb" / "presets" / "hillclimb.yaml").read_text())
    kind = hill_climb(examples)
    assert set(content["presets"]) == {"quick", "patient"}
    for values in content["presets"].values():
        chosen = {name: item["value"] for name, item in values.items() if name != "extends"}
        attack, _ = settings.resolve(kind, [settings.Layer("preset", chosen)], scope="attack")
        assert attack.steps in (20, 200)


def test_the_small_network_keeps_the_contract_of_a_target() -> None:
    from squares.target import TinyNet  # type: ignore[import-not-found]

    size = usual_size("target", TinyNet)
    assert size == 64
    output = TinyNet(num_classes=7, width=0.05).eval()(torch.rand(2, 3, size, size))
    assert isinstance(output, ClassifierOutput)
    assert output.logits.shape == (2, 7)


def test_the_data_set_and_its_recipe_work_together() -> None:
    from squares import CATALOGUE  # type: ignore[import-not-found]
    from squares.data import Squares  # type: ignore[import-not-found]

    for names in CATALOGUE.values():
        for address in names.values():
            assert registry.Entry("x", "x", address, "the page").load() is not None
    data = Squares(persons=3, images=4)
    assert data.private("train", 16, [1]).pixels.shape == (4, 3, 16, 16)
    assert data.digest != Squares(persons=4, images=4).digest


def test_metrics_are_added_to_the_default_ones() -> None:
    def chosen(*groups: str) -> tuple[str, ...]:
        return load_protocol("demo", [settings.Layer("--set", {"metrics": list(groups)})])[0].metrics

    assert chosen("default", "prdc-ppa-legacy") == (*DEFAULT_METRICS, "prdc-ppa-legacy")
    assert chosen("mine", "default", "accuracy") == ("mine", *DEFAULT_METRICS)
    assert chosen("accuracy", "mine") == ("accuracy", "mine")
    assert load_protocol("demo")[0].metrics == ()
    said = re.findall(r"protocol\.metrics=\[([^\]]*)\]", PAGE.read_text())
    assert said
    assert all(text.startswith("default, ") for text in said)


def test_the_metrics_of_the_page_measure() -> None:
    section = PAGE.read_text().partition("\n## A metric\n")[2].partition("\n## ")[0]
    found: dict[str, Metric[ScoringInputs, list[Estimate] | Measured]] = {}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        namespace: dict[str, Any] = {}
        exec(block, namespace)
        found |= {name: value for name, value in namespace.items() if isinstance(value, Metric)}
    assert set(found) == {"measure", "feature_norm"}
    scores = test_scoring.score(
        test_scoring.reconstructions(), **test_scoring.arguments(metrics=tuple(found), registry=found)
    )
    assert all(estimate.value is not None for estimate in scores.metrics.values())
    assert {info.column for info in scores.infos} == {"judge_confidence", "feature_norm"}
    assert "feature_norm" in scores.samples
