"""``mibench audit``: colours as people, a model that tells them apart, everything real but tiny."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from workplace import enter

from mibench.api import Access, Estimate, ImageSpec
from mibench.audits.audit import audit
from mibench.audits.data import read_material
from mibench.audits.findings import _leak
from mibench.audits.judge_and_prior import AuxiliaryModel, judge_of, plan_judge
from mibench.audits.preprocessing import advice, least_accuracy, logits_of, measure
from mibench.audits.request import AuditRequest, numbers
from mibench.cli import cli
from mibench.data.datasets.folder import Folder
from mibench.errors import MibenchError
from mibench.system.progress import Reporter
from mibench.weights.cards import all_cards

SIZE = 16
# Dark, so that a wrong normalisation confuses them; with channels turned ann is taken for cy, and both others for ann,
# which no order of classes explains.
COLOURS = {"ann": (30, 60, 75), "bob": (70, 40, 30), "cy": (75, 60, 35)}
TINY = [
    "--set", "judge_training.width=0.0625", "--set", "judge_training.size=32", "--set", "judge_training.epochs=2",
    "--set", "prior_training.width=0.0625", "--set", "prior_training.steps=2", "--set", "prior_training.batch_size=8",
    "--set", "protocol.samples=2", "--set", "protocol.metrics=[accuracy, knn-distance, feature-distance, controls]",
    "--device", "cpu",
]  # fmt: skip
GMI = ["--attack", "gmi", "--set", "attack.iterations=2", "--set", "attack.restarts=2"]
FLOOR = ["--set", "attack.pool_size=16", "--set", "attack.candidates=2", "--set", "attack.selection_transforms=1"]


class Colours(nn.Module):
    """The nearest mean colour of images in [0, 255]."""

    def __init__(self, people: int = 3) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(3, people)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(images))

    def know(self, colours: list[tuple[int, ...]]) -> Colours:
        means = torch.tensor(colours, dtype=torch.float32)
        self.head.weight.data, self.head.bias.data = 0.02 * means, -0.01 * means.square().sum(dim=1)
        return self


def paint(folder: Path, colours: Mapping[str, tuple[int, ...]], images: int) -> None:
    for number, (name, colour) in enumerate(colours.items()):
        generator = np.random.default_rng(number)
        (folder / name).mkdir(parents=True)
        for take in range(images):
            noise = generator.normal(0, 12, size=(SIZE, SIZE, 3))
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{take:02d}.png")


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``people``, ``strangers``, ``own_colours.py`` and its weights, as working directory."""
    folder = tmp_path / "work"
    paint(folder / "people", COLOURS, 8)
    paint(folder / "strangers", {f"s{n}": (60 * n, 120, 250 - 60 * n) for n in range(4)}, 5)
    (folder / "own_colours.py").write_text(
        "from torch import nn\n"
        "def build(people=3):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, people))\n"
    )
    head = Colours().know(list(COLOURS.values())).head
    save_file({"2.weight": head.weight.data, "2.bias": head.bias.data}, folder / "w.safetensors")
    enter(folder, monkeypatch)
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    sys.modules.pop("own_colours", None)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)])


def model(*more: str) -> list[str]:
    return [
        "--model", "own_colours:build", "--weights", "w.safetensors", "--data", "people", "--public", "strangers",
        "--size", str(SIZE), "--range", "0,255", *more,
    ]  # fmt: skip


def script(network: nn.Module, path: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network.eval(), torch.rand(2, 3, SIZE, SIZE)).save(path)


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_one_command_from_a_model_to_a_verdict_and_the_same_one_finds_it_again(place: Path, home: Path) -> None:
    done = call(*model(*GMI), *TINY)
    assert done.exit_code == 0, done.output
    for text in (
        "own_colours:build: 100.0% of",
        "trained here",
        "gmi with gradients on 3 people, 2 reconstructions each",
        "draws of the prior without it (floor)",
        "nearest public images (control)",
        "what it does not mean:",
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
        "acc1", "floor", "control_nearest_public_acc1", "control_private_test_acc1"
    }  # fmt: skip
    assert found["difference_to_floor"]["value"] is not None
    written = {file: file.read_bytes() for file in [*home.rglob("*.yaml"), *home.rglob("weights/*"), path]}
    again = call(*model(*GMI), *TINY)
    assert again.stdout == done.stdout
    for text in ("was taken in before", "was trained before", "complete already"):
        assert text in again.stderr
    assert {file: file.read_bytes() for file in written} == written
    other = call(*model("--attack", "floor"), *FLOOR, *TINY)  # another attack keeps model, judge and prior
    assert other.exit_code == 0, other.output
    assert other.stderr.count("was trained before") == 2
    assert "no optimisation ran" in other.stdout


def test_a_sealed_file_is_audited_by_its_scores(place: Path) -> None:
    script(Colours().know(list(COLOURS.values())), "model.pt")
    sealed = ["--model", "model.pt", "--data", "people", "--public", "strangers", "--size", SIZE, "--range", "0,255"]
    refused = call(*sealed, *GMI, *TINY)
    assert refused.exit_code == 2
    assert "attack 'gmi' needs gradients, this audit has scores of torchscript@folder+" in refused.stderr
    assert refused.stderr.strip().endswith("choose an attack that needs less (floor)")
    done = call(*sealed, *FLOOR, *TINY, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["attack"]["name"] == "floor"
    assert found["model"]["access"] == "scores"
    assert any("only attacks that make do with scores could run" in sentence for sentence in found["means"])


def test_scores_can_be_all_that_is_granted(place: Path) -> None:
    refused = call(*model("--access", "scores", *GMI), *TINY)
    assert "attack 'gmi' needs gradients, this audit has scores of module@folder+" in refused.stderr


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
    assert line.endswith("choose an attack that needs less (floor)")
    assert "is trained on" not in refused.stderr, "said before judge and prior are made"
    (file,) = [file for name, file in all_cards().items() if name.startswith("module@")]
    assert file.card().access == "scores", "a later run knows it, too"
    done = call(*model(), *FLOOR, *TINY, "--json")
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


BIT = [*TINY[:-4], *TINY[-2:]]  # without protocol.metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "protocol.metrics=[acuracy]"], "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (
            ["--set", "protocol.metrics=[accuracy]"],
            "demands knn_distance, feature_distance, which its metrics leave out",
        ),
        (["--set", "protocol.required=[acc2]"], "protocol.required: unknown estimate 'acc2'; did you mean 'acc5'?"),
        (["--set", "protocol.query_budget=3"], "protocol 'audit (changed) v1' allows 3"),
        (["--set", "protocol.sample=3"], "unknown setting 'protocol.sample'"),
        (["--set", "protocol.first_identity=3"], "attacks identities 3 to 3, folder has 3"),
        (["--set", "attack.iteration=3"], "unknown setting 'attack.iteration'"),
        (["--set", "attack.momentum=3"], "gmi: momentum must lie in [0, 1), got 3.0"),
        (["--set", "prior.truncation=0.5"], "unknown setting 'prior.truncation'"),
        (["--set", "prior_training.penalty=-1"], "train.penalty must be finite and not negative, got -1.0"),
        (["--set", "prior_training.stepps=3"], "unknown setting 'train.stepps'"),
        (["--set", "prior_training.critic_steps=0"], "train.critic_steps must be at least 1, got 0"),
        (["--set", "judge_training.learning_rate=-1"], "learning_rate must be a positive number, got -1.0"),
        (["--prior", "gmmi"], "unknown prior 'gmmi'; did you mean 'gmi'?"),
        (["--prior", "gmi@folder+gone"], "no trained weights for the prior 'gmi@folder+gone'"),
        (["--judge", "facenet112+gone"], "no trained weights for the judge 'facenet112@folder+gone'"),
        (["--seed", str(2**63)], "seed must be a whole number from 0 to 2**63 - 1"),
        (["--output", "own_colours.py"], "cannot write own_colours.py: Not a directory"),
        (["--output", "w.safetensors/runs"], "cannot write w.safetensors/runs: Not a directory"),
    ],
)
def test_what_the_run_would_refuse_is_refused_before_anything_is_trained(
    place: Path, home: Path, arguments: list[str], message: str
) -> None:
    done = call(*model(*GMI), *BIT, *arguments)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "is trained on" not in done.stderr
    assert not Path("runs").exists()
    assert not (home / "training").exists()


def test_an_attack_on_styles_is_refused_a_prior_without_them_before_it_is_trained(place: Path) -> None:
    done = call(*model("--attack", "ppa", "--prior", "gmi"), *TINY)
    assert done.exit_code == 2
    assert "attack 'ppa' needs a prior with a mapping network, 'gmi' has none" in done.stderr
    assert "is trained on" not in done.stderr


def test_too_few_public_images_for_a_batch_are_refused_before_the_judge_is_trained(place: Path) -> None:
    options = [text for text in TINY if text != "prior_training.batch_size=8"]
    options.pop(options.index("prior_training.steps=2") + 1)
    done = call(*model(*GMI), *options)
    assert done.exit_code == 2
    assert "20 public images are fewer than train.batch_size=32; lower it" in done.stderr
    assert "is trained on" not in done.stderr


def test_scopes_are_checked_from_python_too(place: Path) -> None:
    with pytest.raises(MibenchError, match="unknown scope of settings 'judge'; did you mean 'judge_training'"):
        AuditRequest(model="own_colours:build", settings={"judge": {}})


def test_a_model_that_works_as_fed_is_not_second_guessed(place: Path) -> None:
    dataset = Folder(root=str(place / "people"), public_root=str(place / "strangers"))
    image = ImageSpec(size=SIZE, std=(1 / 255,))
    logits = logits_of(Pixels(list(COLOURS.values()), [0.0] * 3, [1 / 255] * 3), torch.device("cpu"))
    assert measure(logits, image, dataset).test == 1.0
    assert advice(logits, image, dataset, channel_order="rgb", names=list(COLOURS)) is None


class Pixels(nn.Module):
    """A model of images that were normalised by mean and std, and turned to BGR; it undoes that itself."""

    def __init__(
        self, colours: list[tuple[int, ...]], mean: list[float], std: list[float], *, bgr: bool = False
    ) -> None:
        super().__init__()
        self.inner = Colours(len(colours)).know(colours)
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self.bgr = bgr

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.flip(1) if self.bgr else images
        logits = self.inner((images * self.std + self.mean) * 255)
        return logits, logits


@pytest.mark.parametrize(
    ("mean", "std", "bgr", "order", "flags"),
    [
        ([0.0] * 3, [1 / 255] * 3, False, None, "--range 0,255"),
        ([0.0] * 3, [1 / 255] * 3, True, None, "--range 0,255 --channel-order bgr"),
        (
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
            False,
            None,
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        ),
        ([0.0] * 3, [1.0] * 3, False, [2, 0, 1], "--classes FILE"),
        ([0.0] * 3, [1 / 255] * 3, False, [1, 2, 0], "--range 0,255 --classes FILE"),
    ],
)
def test_the_preprocessing_that_would_have_worked_is_named(
    place: Path, mean: list[float], std: list[float], bgr: bool, order: list[int] | None, flags: str
) -> None:
    colours = list(COLOURS.values())
    if order is not None:
        colours = [colours[index] for index in order]
    dataset = Folder(root=str(place / "people"), public_root=str(place / "strangers"))
    network = Pixels(colours, mean, std, bgr=bgr)
    image = ImageSpec(size=SIZE)
    found = advice(logits_of(network, torch.device("cpu")), image, dataset, channel_order="rgb", names=list(COLOURS))
    assert found == (flags, 1.0)


def test_the_order_of_imagefolder_is_recognised(tmp_path: Path, home: Path) -> None:
    """Trap: torchvision sorts "10" before "2"; a model trained so looks half broken."""
    colours = {str(n): (20 * n, 255 - 20 * n, (67 * n) % 255) for n in range(11)}
    paint(tmp_path / "people", colours, 6)
    paint(tmp_path / "strangers", {"a": (1, 2, 3)}, 2)
    dataset = Folder(root=str(tmp_path / "people"), public_root=str(tmp_path / "strangers"))
    network = Pixels([colours[name] for name in sorted(colours)], [0.0] * 3, [1.0] * 3)
    logits = logits_of(network, torch.device("cpu"))
    names = list(dataset.class_names)
    assert advice(logits, ImageSpec(size=SIZE), dataset, channel_order="rgb", names=names) == (
        "--classes imagefolder",
        1.0,
    )
    ordered = read_material(
        AuditRequest(model="x:y", data=tmp_path / "people", public=tmp_path / "strangers", classes="imagefolder")
    )
    assert measure(logits, ImageSpec(size=SIZE), ordered.dataset).test == 1.0


def test_an_order_of_classes_that_chance_suggests_is_not_believed(place: Path) -> None:
    """A permutation is fitted on train images and measured on test images: noise gains nothing."""
    dataset = Folder(root=str(place / "people"), public_root=str(place / "strangers"))

    def noise(pixels: torch.Tensor, image: ImageSpec) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(int(pixels.sum()) % 1000)
        yield torch.rand(len(pixels), 3, generator=generator)

    found = advice(noise, ImageSpec(size=SIZE), dataset, channel_order="rgb", names=list(COLOURS))
    assert found is None or found[1] < 0.9


@pytest.mark.parametrize(("classes", "least"), [(2, 0.75), (3, 2 / 3), (4, 0.5), (1000, 0.002)])
def test_the_least_accuracy_is_twice_chance_and_can_be_reached(classes: int, least: float) -> None:
    assert least_accuracy(classes) == pytest.approx(least)


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
    with pytest.raises(MibenchError, match=r"is there already, nothing is trained: drop --set judge_training\.\*"):
        judge(replace(request, judge=trained.file.name), listener)
    named = replace(request, judge=trained.file.name, settings={})
    assert judge(named, Listener()) == AuxiliaryModel(trained.file, False, 1.0, trained.images)
    Path("names.txt").write_text("cy\nann\nbob\n")
    turned = replace(named, classes="names.txt")
    with pytest.raises(MibenchError, match=r"gets 0.0% of the \d+ held-out images right .* or these in another order"):
        judge(turned, Listener())


def test_a_number_that_is_missing_is_said() -> None:
    recognised = {"acc1": {"value": None, "low": None, "high": None, "reason": "no judge"}}
    assert _leak("ppa", Access.GRADIENTS, recognised, estimate(0, 0, 0), 2, False) == ["nothing can be said: no judge"]


def test_numbers_of_an_option() -> None:
    assert numbers("0.5, -1,2e-3", "--mean") == (0.5, -1.0, 0.002)
    assert numbers(None, "--mean") == ()
