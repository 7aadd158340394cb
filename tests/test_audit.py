"""``mibench audit``: colours as people, a model that tells them apart, everything real but tiny."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from audited import COLOURS, FLOOR, GMI, SEARCH, SIZE, TINY, Colours, Listener, call, model, script
from documented_keys import DOCS, check_keys, documented
from safetensors.torch import save_file

from mibench.api import Access, Estimate
from mibench.audits.audit import audit
from mibench.audits.data import read_material
from mibench.audits.findings import _leak
from mibench.audits.judge_and_prior import AuxiliaryModel, judge_of, plan_judge
from mibench.audits.request import AuditRequest, numbers
from mibench.errors import MibenchError
from mibench.weights.cards import all_cards

BY_SCORES = "brep, c2fmi, floor, lokt-pool, mirror-b, rlb, smile"  # attacks that make do with scores


def test_one_command_from_a_model_to_a_verdict_and_the_same_one_finds_it_again(place: Path, home: Path) -> None:
    done = call(*model(*GMI), *TINY)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("UNDECIDED gmi: acc@1 "), "three people cannot show a leak"
    for text in (
        "own_colours:build: 100.0% of",
        "trained here",
        "gmi with gradients on 3 people, 2 reconstructions each",
        "draws of the prior without it (floor)",
        "nearest public images (control)",
        "limits: ",
        "3 people are few",
        "20 public images make a poor prior",
        "set apart by file name",
    ):
        assert text in done.stdout
    (path,) = Path("runs").glob("gmi-*/audit.json")
    found = json.loads(path.read_text())
    assert found["model"]["accuracy"]["test"] == 1.0
    assert found["model"]["image"]["std"] == pytest.approx([1 / 255])
    assert found["attack"]["floor"]
    assert set(found["recognised"]) == {
        "acc1", "floor", "control_nearest_public_acc1", "control_private_test_acc1", "judge_false_acceptance_private",
        "judge_false_acceptance_foreign",
    }  # fmt: skip
    assert found["difference_to_floor"]["value"] is not None
    assert found["verdict"] == "undecided"
    evidence = json.loads(path.with_name("evidence.json").read_text())
    assert evidence["verdict"] == found["verdict"]
    page = path.with_name("evidence.md").read_text()
    for text in (*COLOURS, str(place), str(home)):
        assert not re.search(rf"\b{re.escape(text)}\b", page + json.dumps(evidence)), text
    exposed = list(csv.DictReader(path.with_name("exposure.csv").open()))
    assert {row["name"] for row in exposed} == set(COLOURS)
    if DOCS.is_dir():  # in a checkout
        check_keys(found, "audit-files.md", "`audit.json`")
        check_keys(evidence, "audit-files.md", "`evidence.json`")
        assert set(exposed[0]) == documented("audit-files.md", "`exposure.csv`")
    for row in exposed:
        assert Path("people", row["file"]).is_file()
        assert row["file"].startswith(f"{row['name']}/")
    left = (path, *(path.with_name(name) for name in ("evidence.json", "evidence.md", "exposure.csv")))
    written = {file: file.read_bytes() for file in [*home.rglob("*.yaml"), *home.rglob("weights/*"), *left]}
    again = call(*model(*GMI), *TINY, "--fail-on", "undecided")
    assert again.exit_code == 3
    assert again.stdout == done.stdout
    for text in ("was taken in before", "was trained before", "complete already"):
        assert text in again.stderr
    assert {file: file.read_bytes() for file in written} == written
    other = call(*model("--attack", "floor"), *FLOOR, *TINY)  # another attack keeps model, judge and prior
    assert other.exit_code == 0, other.output
    assert other.stderr.count("was trained before") == 2
    assert "no optimisation ran" in other.stdout
    assert other.stdout.startswith("UNDECIDED floor: ")
    (beside,) = Path("runs").glob("floor-*/evidence.json")
    (level,) = [level for level in json.loads(beside.read_text())["levels"] if level["access"] == "gradients"]
    assert [result["attack"] for result in level["results"]] == ["floor", "gmi"]


def test_a_sealed_file_is_audited_by_its_scores(place: Path) -> None:
    script(Colours().know(list(COLOURS.values())), "model.pt")
    sealed = ["--model", "model.pt", "--data", "people", "--public", "strangers", "--size", SIZE, "--range", "0,255"]
    refused = call(*sealed, *GMI, *TINY)
    assert refused.exit_code == 2
    assert "attack 'gmi' needs gradients, this audit has scores of torchscript@folder+" in refused.stderr
    assert refused.stderr.strip().endswith(f"choose an attack that needs less ({BY_SCORES})")
    done = call(*sealed, *SEARCH, *TINY, "--json")
    assert done.exit_code == 0, done.output
    assert "attack: none named, so mirror-b (possible, too: brep, c2fmi, floor, lokt-pool, rlb, smile)" in done.stderr
    found = json.loads(done.stdout)
    assert found["attack"]["name"] == "mirror-b"
    assert found["attack"]["floor"]
    assert found["prior"]["card"].startswith("gmi@folder+")
    assert found["model"]["access"] == "scores"
    assert any("only attacks that make do with scores could run" in sentence for sentence in found["means"])


def test_scores_can_be_all_that_is_granted(place: Path) -> None:
    refused = call(*model("--access", "scores", *GMI), *TINY)
    assert "attack 'gmi' needs gradients, this audit has scores of module@folder+" in refused.stderr


def test_labels_can_be_all_that_is_granted(place: Path) -> None:
    refused = call(*model("--access", "labels", "--attack", "mirror-b"), *TINY)
    assert refused.exit_code == 2
    assert "attack 'mirror-b' needs scores, this audit has labels of module@folder+" in refused.stderr
    done = call(*model("--access", "labels"), *FLOOR, *TINY, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["attack"]["name"], found["attack"]["access"]) == ("floor", "labels")
    assert any("gives their label most steadily" in sentence for sentence in found["means"])
    assert any("only attacks that make do with labels could run" in sentence for sentence in found["means"])


def test_a_model_without_a_usable_gradient_is_attacked_by_its_scores_and_only_so(place: Path, home: Path) -> None:
    """Its other manners are no better: it talks, and changes what belongs to the whole process."""
    (place / "own_colours.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "print('loaded')\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        print('asked')\n"
        "        torch.set_default_dtype(torch.float64)\n"
        "        torch.set_grad_enabled(False)\n"
        "        return super().forward(images)\n"
        "def build(people=3):\n"
        "    return Net(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, people))\n"
    )
    refused = call(*model(*GMI), *TINY)
    assert refused.exit_code == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "attack 'gmi' needs gradients, this audit has scores of module@folder+" in line
    assert "which gives no usable gradient: its scores come without one" in line
    assert line.endswith(f"choose an attack that needs less ({BY_SCORES})")
    assert "is trained on" not in refused.stderr, "said before judge and prior are made"
    (file,) = [file for name, file in all_cards().items() if name.startswith("module@")]
    assert file.card().access == "scores", "a later run knows it, too"
    done = call(*model("--attack", "floor"), *FLOOR, *TINY, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["attack"]["name"] == "floor"
    assert found["attack"]["access"] == "scores"
    assert any("no usable gradient" in note for note in found["model"]["notes"])
    assert "asked" in done.stderr
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--public", "nowhere"], "--public nowhere: there is no such folder"),
        (["--public", "people"], "is dataset.root"),
        (["--model", "own_colours:biuld"], "own_colours has no 'biuld' (it has: build)"),
        (["--model", "gone.onnx"], "--model gone.onnx: there is no such file"),
        (["--model", "w.safetensors"], "is a file of weights (safetensors), not a model"),
        (["--weights", "own_colours.py"], "is Python code, not weights"),
        (
            ["--set", "model.people=4"],
            "w.safetensors does not fit the model that the factory builds: 2 of another shape",
        ),
        (["--size", "0"], "--size must lie between 1 and 4096"),
        (["--mean", "a,b"], "--mean a,b: expected numbers with commas between them"),
        (["--range", "255,0"], "--range takes what black and white are"),
        (["--classes", "gone.txt"], "--classes gone.txt: there is no such file"),
        (["--attack", "gmmi"], "unknown attack 'gmmi'; did you mean 'gmi'?"),
        (["--identities", "9"], "--identities must lie between 1 and 3"),
        (["--min-accuracy", "50"], "--min-accuracy is a share in [0, 1], got 50"),
        (["--judge", "facenet112@synthfaces"], "--judge facenet112@synthfaces knows 300 people, the data has 3"),
        (["--set", "judge_training.epoch=2"], "did you mean 'epochs'?"),
        (["--set", "judges.epochs=2"], "unknown scope 'judges'"),
        (["--range", "0,1"], "with --range 0,255 it reaches 100.0% of a sample"),
        (["--channel-order", "bgr"], "with --range 0,255 --channel-order rgb it reaches 100.0% of a sample"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(place: Path, home: Path, arguments: list[str], message: str) -> None:
    done = call(*model(), *GMI, *TINY, *arguments)
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert not done.stdout
    assert not Path("runs").exists()
    kept = [file for file in home.rglob("*.safetensors") if "cache" not in file.parts]
    assert all("module" in file.name for file in kept), "at most the model, which was sound"


def test_classes_in_a_file_decide(place: Path, home: Path) -> None:
    names = ["cy", "ann", "bob"]
    Path("names.txt").write_text("\n".join(names) + "\n")
    head = Colours().know([COLOURS[name] for name in names]).head
    save_file({"2.weight": head.weight.data, "2.bias": head.bias.data}, "w.safetensors")
    wrong = call(*model(*GMI), *TINY)
    assert "with --classes FILE it reaches 100.0% of a sample" in wrong.stderr
    assert "(FILE: the names of the directories" in wrong.stderr
    right = call(*model("--classes", "names.txt", "--attack", "floor"), *FLOOR, *TINY)
    assert right.exit_code == 0, right.output
    assert "100.0% of" in right.stdout


def test_a_doubtful_model_goes_on_only_when_asked(place: Path) -> None:
    head = Colours().know([COLOURS["ann"], COLOURS["bob"], COLOURS["bob"]]).head
    head.bias.data[2] += 5  # takes everything from bob: two of three people are right, one never
    save_file({"2.weight": head.weight.data, "2.bias": head.bias.data}, "w.safetensors")
    request = AuditRequest(
        model="own_colours:build",
        weights=Path("w.safetensors"),
        data=Path("people"),
        public=Path("strangers"),
        size=SIZE,
        range=(0.0, 255.0),
        min_accuracy=0.99,
    )
    with pytest.raises(
        MibenchError, match=r"the model gets .* held-out images right .*99.0% is the least to go on with"
    ):
        audit(request, Path("runs"), device="cpu", reporter=Listener())


def estimate(value: float, low: float, high: float, **params: Any) -> Estimate:
    return Estimate("difference_hit1", value, low, high, 20, params=params)


@pytest.mark.parametrize(
    ("difference", "weak", "message"),
    [
        (estimate(0.4, 0.2, 0.6), False, "the model leaks: with gradients, ppa makes images"),
        (estimate(0.4, 0.2, 0.6), True, "the model leaks"),
        (
            estimate(0.05, -0.1, 0.2, detectable=0.21),
            False,
            "a difference below 21 points would mostly have gone unseen",
        ),
        (estimate(0.0, 0.0, 0.0), True, "with this judge that says nothing"),
        (Estimate("difference_hit1", None, reason="its own floor"), False, "no optimisation ran"),
    ],
)
def test_the_words_follow_the_interval(difference: Estimate, weak: bool, message: str) -> None:
    recognised = {"acc1": {"value": 0.5, "low": 0.3, "high": 0.7, "reason": None}}
    sentences = _leak("ppa", Access.GRADIENTS, recognised, difference, 20, weak)
    assert message in " ".join(sentences)
    assert ("leaks" in " ".join(sentences)) == (difference.low is not None and difference.low > 0)


def test_a_judge_from_elsewhere_is_measured_here_first(place: Path) -> None:
    tiny = {"width": 0.0625, "size": 32, "epochs": 40, "augment": "none", "dropout": 0.0}
    request = AuditRequest(
        model="x:y", data=Path("people"), public=Path("strangers"), settings={"judge_training": tiny}
    )
    listener = Listener()

    def judge(request: AuditRequest, listener: Listener) -> AuxiliaryModel:
        material = read_material(request)
        return judge_of(plan_judge(request, material), material, "cpu", listener)

    trained = judge(request, listener)
    assert trained.own
    assert trained.accuracy == 1.0
    assert any("none named" in text for text in listener.said)
    with pytest.raises(MibenchError, match=r"is there already, nothing is trained.*drop --set judge_training\.\*"):
        judge(replace(request, judge=trained.file.name), listener)
    named = replace(request, judge=trained.file.name, settings={})
    assert judge(named, Listener()) == AuxiliaryModel(trained.file, False, 1.0, trained.images)
    Path("names.txt").write_text("cy\nann\nbob\n")
    turned = replace(named, classes="names.txt")
    with pytest.raises(MibenchError, match=r"gets 0.0% of the \d+ held-out images right .* or these in another order"):
        judge(turned, Listener())


def test_a_missing_number_is_reported_with_its_reason() -> None:
    recognised = {"acc1": {"value": None, "low": None, "high": None, "reason": "no judge"}}
    assert _leak("ppa", Access.GRADIENTS, recognised, estimate(0, 0, 0), 2, False) == ["nothing can be said: no judge"]


def test_numbers_of_an_option() -> None:
    assert numbers("0.5, -1,2e-3", "--mean") == (0.5, -1.0, 0.002)
    assert numbers(None, "--mean") == ()
