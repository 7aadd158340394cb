"""From attacks to the verdict: classifiers that only hide are flagged by runs against them, honest ones are not."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toyworld import build
from toyworld.build import write_network, write_world
from toyworld.data import ToyFaces
from toyworld.networks import classifier_weights

import mibench
from mibench import registry
from mibench.api import Card, WeightsFile
from mibench.records import CardDefence
from mibench.reports.compare import compare
from mibench.results import open_run
from mibench.weights.cards import find, write_card

ASKED = {"protocol.diagnostics": ["gradients"]}
PEOPLE = 12  # with six no p value of three tests is below 0.05
TWIN = "toynet@toyfaces"


def double(twin: Card, home: Path, tag: str, architecture: str, weights: dict[str, torch.Tensor]) -> str:
    """Weights and card of a target that is defended, as its card says, beside its undefended twin; its name."""
    file = home / "weights" / f"{tag}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    content = file.read_bytes()
    name = f"{twin.name}+{tag}"
    card = dataclasses.replace(
        twin,
        name=name,
        architecture=architecture,
        weights=WeightsFile(file.name, hashlib.sha256(content).hexdigest(), len(content)),
        defence=CardDefence(name=tag, settings={tag: {}}, twin=twin.name, twin_sha256=twin.weights.sha256),
    )
    write_card(card, home / "cards")
    return name


@pytest.fixture
def world(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world with classifiers that hide their gradients, and one that really leaks less. Yields the home."""
    points = (*build.POINTS, EntryPoint("maskers", "maskers:CATALOGUE", registry.GROUP))
    monkeypatch.setattr(build, "POINTS", points)
    registry.catalogue.cache_clear()
    data = ToyFaces(persons=PEOPLE)
    write_world(toy, data)
    weights = classifier_weights(data)
    fields = {"classes": data.num_classes, "measured": {"test_accuracy": 1.0, "test_images": 30}}
    twin = write_network(toy, TWIN, "target", weights, data, **fields)
    for tag in ("vanishing", "shattered"):
        double(twin, toy, tag, f"toy{tag}", weights)
    order = torch.tensor([1, 0, 3, 2, *range(4, PEOPLE)])  # it takes four of the people for each other
    double(twin, toy, "honest", "toynet", {name: tensor[order] for name, tensor in weights.items()})
    return toy


def test_runs_against_doubles_that_only_hide_flag_them(world, tmp_path):
    settings = {**ASKED, "dataset.persons": PEOPLE, "protocol.identities": PEOPLE}
    for tag in ("", "+vanishing", "+shattered", "+honest"):
        for attack in ("toyattack", "toysearch"):
            mibench.run(attack, TWIN + tag, "toyfaces", "toy", settings=settings, out=tmp_path, device="cpu")
    rows = {row["label"]: row for row in compare(tmp_path, by="defence").as_plain()["rows"]}
    checks = {label: {c["name"]: c for c in row["masking"]["checks"]} for label, row in rows.items() if row["masking"]}

    assert rows["none"]["masking"] is None
    assert rows["honest"]["masking"]["verdict"] == "no sign"
    leaked = {name: rows["honest"]["attacks"][name]["estimates"]["acc1"]["value"] for name in rows["honest"]["attacks"]}
    assert leaked["toyattack"] < rows["none"]["attacks"]["toyattack"]["estimates"]["acc1"]["value"]
    for label, name in (("vanishing", "gradient norm"), ("shattered", "cosine")):
        shown = {name for name, each in checks[label].items() if each["sign"]}
        assert {name, "black box"} <= shown, label
    gap = checks["vanishing"]["black box"]["estimates"]
    assert gap["difference of differences"]["value"] == pytest.approx(
        gap["gap"]["value"] - gap["gap on the twin"]["value"]
    )
    assert gap["gap"]["value"] > 0
    assert checks["vanishing"]["own loss"]["sign"]


@pytest.mark.slow
def test_mirror_against_a_vgg16_that_only_hides(home, tmp_path, monkeypatch):
    points = (*registry.entry_points(group=registry.GROUP), EntryPoint("maskers", "maskers:REAL", registry.GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda *, group: points if group == registry.GROUP else ())
    registry.catalogue.cache_clear()
    try:
        shipped = find("target", "vgg16", "synthfaces")
        double(shipped.card(), home, "vanishing", "vgg16_vanishing", load_file(shipped.weights_path))
        for target in ("vgg16", "vgg16+vanishing"):
            for attack in ("mirror-w", "mirror-b"):
                mibench.run(attack, target, protocol="smoke", settings=ASKED, out=tmp_path, device="cpu")
        found = compare(tmp_path, by="defence").as_plain()
    finally:
        registry.catalogue.cache_clear()
    masking = next(row["masking"] for row in found["rows"] if row["label"] == "vanishing")
    checks = {each["name"]: each for each in masking["checks"]}
    assert "gradient norm" in masking["verdict"]
    assert checks["gradient norm"]["estimates"]["decades"]["value"] == pytest.approx(-9, abs=0.1)
    assert checks["black box"]["sign"] is False  # three people and two steps decide nothing
    assert checks["black box"]["p_value"] is not None
    assert checks["cosine"]["sign"] is False
    for run in tmp_path.glob("mirror-*"):
        assert open_run(run).metrics["gradient_cosine"].value == 1
    shutil.rmtree(tmp_path)
