"""The examples of ``docs/extending.md`` work as they are printed."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import test_scoring
import torch
import yaml
from test_contract import usual_size

import mibench
from mibench import plugins, registry, settings
from mibench.api import Access, Card, ClassifierOutput, Context, Estimate, Measured, Metric, Queries, Victim
from mibench.metrics import DEFAULT_METRICS
from mibench.metrics.inputs import ScoringInputs
from mibench.results import open_run
from mibench.rng import Streams
from mibench.runs.budget import planned_total
from mibench.runs.protocol import load_protocol
from mibench.weights.training import Training, train

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the page prints, under the name in the line before it."""
    folder = tmp_path_factory.mktemp("examples")
    for line, text in re.findall(r"([^\n]+)\n\n```(?:python|yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        name = re.search(r"`([\w/]+\.(?:py|yaml))`", line)
        if name is None:
            continue
        file = folder / name[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if file.suffix == ".py" and not file.with_name("__init__.py").exists():
            file.with_name("__init__.py").write_text("")
    return folder


@pytest.fixture(autouse=True)
def importable(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(examples))
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield
    registry.catalogue.cache_clear()  # forgets what a test plugged in


def test_the_page_prints_every_file(examples: Path) -> None:
    printed = {path.relative_to(examples).as_posix() for path in examples.rglob("*.*") if path.stat().st_size}
    assert {"hillclimb/__init__.py", "hillclimb/attack.py", "hillclimb/presets/hillclimb.yaml"} <= printed
    assert {f"mine/{name}.py" for name in ("__init__", "attack", "metric", "report")} <= printed
    assert {f"squares/{name}.py" for name in ("__init__", "data", "target", "training", "judge", "defence")} <= printed
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        ast.parse(block)


def test_attack_metric_and_report_work_in_a_run(toy: Path, examples: Path, tmp_path: Path) -> None:
    registry.add_plugin(str(examples / "mine"))
    run = mibench.run(
        "draws",
        "toynet",
        "toyfaces",
        "toy",
        settings={"attack.samples": 3, "protocol.metrics": ["accuracy", "knn-distance", "judge-confidence"]},
        out=tmp_path,
        device="cpu",
    )
    stored = open_run(run.path)
    assert 0 < stored.metrics["judge_confidence"].value < 1
    assert stored.metrics["judge_confidence"].n == 6
    text = (run.path / "tables" / "one-line.txt").read_text()
    assert text == f"draws {stored.metrics['acc1'].value}\n"
    assert stored.samples.groupby("identity").size().tolist() == [3] * 6


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
    assert planned_total(attack, protocol.resolved(6)) == attack.planned_queries(protocol.resolved(6).num_identities)
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


@pytest.mark.parametrize(("kind", "module", "name"), [("target", "target", "TinyNet"), ("judge", "judge", "TinyJudge")])
def test_the_small_networks_keep_the_contract(kind: str, module: str, name: str) -> None:
    network = getattr(importlib.import_module(f"squares.{module}"), name)
    size = usual_size(kind, network)
    output = network(num_classes=7, width=0.05).eval()(torch.rand(2, 3, size, size))
    assert isinstance(output, ClassifierOutput)
    assert output.logits.shape == (2, 7)


def test_the_data_set_keeps_its_promises() -> None:
    from squares import CATALOGUE  # type: ignore[import-not-found]
    from squares.data import Squares  # type: ignore[import-not-found]

    for names in CATALOGUE.values():
        for address in names.values():
            assert registry.Entry("x", "x", address, "the page").load() is not None
    data = Squares(identities=3, images=4)
    data.check_disjoint()
    assert data.private("train", 16, [1]).pixels.shape == (4, 3, 16, 16)
    assert torch.equal(data.private("train", 16, [1]).pixels, data.private("train", 16).pixels[4:8])
    assert data.digest != Squares(identities=4, images=4).digest


def test_target_and_judge_are_trained_by_their_recipes_and_a_defence_acts_on_one(home: Path, examples: Path) -> None:
    registry.add_plugin(str(examples / "squares"))

    def trained(kind: str, architecture: str, *defences: str, **settings: Mapping[str, Any]) -> Card:
        training = Training(
            kind=kind, architecture=architecture, dataset="squares", defences=defences, settings=settings
        )
        return train(training, device="cpu")[1]

    target, judge = (trained(kind, name, train={"epochs": 1}) for kind, name in NETWORKS)
    assert (target.kind, target.image.size) == ("target", 16)
    assert (judge.kind, judge.architecture, judge.image.size) == ("judge", "tinyjudge", 32)
    assert (judge.measured or {})["test_images"] == 160
    small = {"epochs": 1, "width": 1 / 16, "size": 32}
    twin = trained("target", "vgg16", train=small)
    off, on = (trained("target", "vgg16", "confidence-penalty", defence={"weight": weight}) for weight in (0, 0.3))
    assert off.arguments == twin.arguments  # it follows the twin's recipe
    assert off.measured is not None
    assert twin.measured is not None
    assert off.measured["train_accuracy"] == twin.measured["train_accuracy"]
    assert on.weights.sha256 != off.weights.sha256
    assert on.defence is not None
    assert on.defence.settings == {"confidence-penalty": {"weight": 0.3}}
    assert on.defence.twin_sha256 == twin.weights.sha256


NETWORKS = (("target", "tinynet"), ("judge", "tinyjudge"))


def test_metrics_are_added_to_the_default_ones() -> None:
    def chosen(*groups: str) -> tuple[str, ...]:
        return load_protocol("demo", [settings.Layer("--set", {"metrics": list(groups)})])[0].metrics

    assert chosen("default", "prdc-ppa-legacy") == (*DEFAULT_METRICS, "prdc-ppa-legacy")
    assert chosen("mine", "default", "accuracy") == ("mine", *DEFAULT_METRICS)
    assert chosen("accuracy", "mine") == ("accuracy", "mine")
    assert load_protocol("demo")[0].metrics == ()
    lists = re.findall(r"protocol\.metrics=\[([^\]]*)\]", PAGE.read_text())
    assert lists
    assert all(names.startswith("default, ") for names in lists)


HEADS = ("A metric", "The description of a metric")


def test_the_metrics_of_the_page_measure() -> None:
    page = PAGE.read_text()
    section = "".join(page.partition(f"\n## {head}\n")[2].partition("\n## ")[0] for head in HEADS)
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
