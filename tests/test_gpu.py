"""What only a GPU can show: agreement with the CPU, resuming, full memory, trainings, whole runs with shipped weights.

``MIBENCH_TEST_ACCELERATOR=cpu pytest -m gpu`` rehearses the same bodies on a CPU, to the bit where that is promised.
"""

from __future__ import annotations

import gc
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import test_dcgan
import test_plgmi_prior
import test_prior_training
import torch
from accelerator import CASES, TOLERANCE, an_accelerator, attacked, moved, relative, same_bits, shares  # noqa: F401
from click.testing import CliRunner
from powercut import Stopped
from tiny_splits import CLASSES, TinySplit, TruthfulSplit, tiny_target
from torch import Tensor

import mibench
from mibench.api import Access, ImageSpec, PriorTrainingData, TrainedWeights, TrainingContext, Victim
from mibench.attacks.priors.dcgan.prior import GMIPrior, KEDMIPrior
from mibench.attacks.priors.plgmi.prior import PLGMIPrior
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.attacks.priors.stylegan2.training import TrainStyleGAN2
from mibench.cli import cli
from mibench.results import StoredRun, open_run
from mibench.rng import Streams
from mibench.runs.attack import Execution, attack_units
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.runs.store import RunDir
from mibench.system import provenance
from mibench.system.devices import choose_device, deterministic
from mibench.targets.training.identity_regressor import TrainRegressor
from mibench.targets.training.recipes import TrainJudge, build
from mibench.weights.checkpoint import FileCheckpoint

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
PROMISED = ("gmi", "kedmi")  # to the bit in any micro-batch on a CPU: their networks here are convolutions only
STAGES = ("state", "units/000")
SMALL: dict[str, dict[str, Any]] = {  # with shipped weights, two units of one identity
    "floor": {"pool_size": 16, "candidates": 2},
    "gmi": {"restarts": 2, "iterations": 3},
    "kedmi": {"draws": 2, "iterations": 4},
    "brep": {"pool_size": 16, "restarts": 2, "directions": 4, "steps": 2},
    "c2fmi": {"pool_size": 16, "starts": 3, "population": 4, "generations": 2, "candidates": 2},
    "deepinversion": {"restarts": 2, "steps": 2},
    "if-gmi": {"pool_size": 16, "candidates": 2, "steps": 3, "stages": 2, "stage_steps": 1},
    "lomma-gmi": {"restarts": 2, "iterations": 3, "student_images": 32, "feature_images": 32},
    "lomma-kedmi": {"draws": 2, "iterations": 4, "student_images": 32, "feature_images": 32},
    "lokt-pool": {"pool_size": 16, "candidates": 2, "steps": 2, "surrogates": ["small"], "training_steps": 2},
    "miface": {"restarts": 2, "steps": 3},
    "rlb": {"candidates": 2, "episodes": 4, "hidden": 8, "batch_size": 2},
    "smile": {"pool_size": 16, "training_steps": 2, "steps": 2, "population": 4, "generations": 2, "candidates": 2},
    "mirror-b": {"pool_size": 16, "candidates": 2, "population": 4, "generations": 2},
    "mirror-w": {"pool_size": 16, "candidates": 2, "steps": 2},
    "consensus": {"pool_size": 16, "candidates": 3, "steps": 3, "subset": 2},
    "ppa": {"pool_size": 16, "candidates": 2, "epochs": 2},
    "ppdg": {"pool_size": 16, "later_pool_size": 4, "candidates": 2, "steps": 2, "project_steps": 3, "tune_steps": 2},
    "vmi": {"draws": 2, "steps": 2, "samples_per_step": 2},
    "dmmia": {"pool_size": 16, "candidates": 2, "epochs": 2},
}


# -- attacks on small networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_gpu_computes_what_the_cpu_computes(accelerator: torch.device, name: str) -> None:
    attack, make = CASES[name]
    here, there = moved(make(), CPU), moved(make(), accelerator)
    assert here.prior is not None
    assert there.prior is not None
    latents = here.prior.sample(16, torch.Generator().manual_seed(3))
    with deterministic(accelerator, "float32"), torch.no_grad():
        expected = here.prior.decode(latents)
        found = there.prior.decode(latents.to(accelerator))
        assert relative(found.cpu(), expected) < TOLERANCE["forward"]
        logits = there.victim.logits(there.fit(found)).cpu()
        assert relative(logits, here.victim.logits(here.fit(expected))) < TOLERANCE["forward"]
    apart = shares(attacked(attack, make(), accelerator), attacked(attack, make(), CPU))
    assert max(apart.values()) < 1, apart


@pytest.mark.parametrize("name", CASES)
def test_the_micro_batch_does_not_change_a_result(accelerator: torch.device, name: str) -> None:
    attack, make = CASES[name]
    whole = attacked(attack, make(micro_batch=256), accelerator)
    for size in (3, 16):
        split = attacked(attack, make(micro_batch=size), accelerator)
        apart = shares(split, whole)
        assert max(apart.values()) < 1, apart
        assert accelerator.type != "cpu" or name not in PROMISED or same_bits(split, whole)


# -- the engine, with shipped weights ----------------------------------------------------------------------------------


def attack_only(name: str, folder: Path, device: torch.device, **changes: Any) -> RunDir:
    """The engine's half of a run: two units of one identity, unless ``changes`` say otherwise."""
    settings = {"attack": {"unit_size": 1, **SMALL[name], **changes}, "protocol": {"identities": 2}}
    found = RunDir(folder)
    with found.writing():
        attack_units(make_plan(RunRequest(attack=name, protocol="smoke", settings=settings)), found, Execution(device))
    return found


def agree(one: dict[str, Tensor], other: dict[str, Tensor], device: torch.device) -> None:
    """Stored tensors of a unit: equal on a CPU, within the tolerances on a GPU."""
    assert one.keys() == other.keys()
    for key, expected in other.items():
        if device.type == "cpu" or key == "labels":
            assert torch.equal(one[key], expected), key
        elif key == "images":
            assert float((one[key].float() - expected.float()).abs().mean()) / 255 < TOLERANCE["images"]
        elif key == "confidence":
            assert float((one[key] - expected).abs().max()) < TOLERANCE["confidence"]
        else:
            curve = key.startswith("curve.")
            assert relative(one[key], expected, mean=not curve) < TOLERANCE["curve" if curve else "latents"], key


@pytest.mark.parametrize("name", SMALL)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    accelerator: torch.device, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = attack_only(name, tmp_path / "whole", accelerator)
    save = RunDir.save

    def stopping(self: RunDir, stem: str, *rest: Any, **more: Any) -> None:
        save(self, stem, *rest, **more)
        if stem == "units/000":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            attack_only(name, tmp_path / "part", accelerator)
    files = {path: path.read_bytes() for path in (tmp_path / "part").rglob("*") if path.suffix == ".safetensors"}
    assert {path.name for path in files} == {"state.safetensors", "000.safetensors"}
    part = attack_only(name, tmp_path / "part", accelerator)
    assert all(path.read_bytes() == content for path, content in files.items())
    for stem in ("units/000", "units/001"):
        (found, facts), (expected, others) = part.load(stem), whole.load(stem)
        assert facts == others
        agree(found, expected, accelerator)


@contextmanager
def short_of_memory(share: float, peak: int, device: torch.device, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only ``share`` of the memory that a run needed: of the GPU's, or by a victim that refuses more than 20 images."""
    if device.type == "cpu":
        asked = Victim._forward

        def refusing(self: Victim, images: Tensor, needed: Access) -> Any:
            answer = asked(self, images, needed)
            if images.shape[0] > 20:
                raise torch.OutOfMemoryError("pretended")
            return answer

        with patch.context() as context:
            context.setattr(Victim, "_forward", refusing)
            yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((held + share * max(peak - held, 0)) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        gc.collect()
        torch.cuda.empty_cache()


def test_a_full_memory_halves_the_micro_batch_and_changes_nothing_else(
    accelerator: torch.device, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"unit_size": 2, "pool_size": 48, "candidates": 24, "batch_size": 24, "epochs": 1}
    roomy = attack_only("ppa", tmp_path / "roomy", accelerator, **changes)
    peaks = [json.loads((roomy.path / f"{stem}.json").read_text())["peak_memory_bytes"] for stem in STAGES]
    for share in (0.6, 0.4, 0.25):  # cuDNN can do with less than it takes: the first may still be enough
        with short_of_memory(share, max(peaks), accelerator, monkeypatch):
            tight = attack_only("ppa", tmp_path / f"tight{share}", accelerator, **changes)
        events = [json.loads(line) for line in (tight.path / "log.jsonl").read_text().splitlines()]
        if any(event.get("event") == "out_of_memory" for event in events):
            break
    else:
        pytest.fail("memory was never full")
    assert json.loads((tight.path / "units/000.json").read_text())["micro_batch"] < 48
    (found, facts), (expected, others) = tight.load("units/000"), roomy.load("units/000")
    assert facts == others  # queries among them: what ran out of memory is not counted
    assert (facts["queries_forward"], facts["queries_backward"]) == (2 * 24 * (1 + 2), 2 * 24)  # a step, two views
    for key in ("images", "confidence", "latents"):  # within the tolerances on a CPU too: another batch, another kernel
        agree({key: found[key]}, {key: expected[key]}, torch.device("cuda"))


# -- whole runs with shipped weights -----------------------------------------------------------------------------------

Runs = Callable[[str], StoredRun]


@pytest.fixture(scope="module")
def runs(accelerator: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Smoke runs by attack, each made once; torch's warnings of operations that vary must not reach anybody."""
    out = tmp_path_factory.mktemp("runs")
    made: dict[str, StoredRun] = {}

    def run_of(name: str) -> StoredRun:
        if name not in made:
            with warnings.catch_warnings(record=True) as shown:
                warnings.simplefilter("always")
                made[name] = mibench.run(name, protocol="smoke", device=str(accelerator), out=out)
            assert not [str(one.message) for one in shown if "deterministic" in str(one.message)]
        return made[name]

    return run_of


@pytest.mark.parametrize("name", ["gmi", "kedmi", "ppa"])
def test_shipped_weights_run_and_say_on_what(accelerator: torch.device, runs: Runs, name: str) -> None:
    run = runs(name)
    assert not run.missing
    assert run.floor is not None
    for metric in ("acc1", "knn_distance", "true_identity_error"):
        assert math.isfinite(run.metrics[metric].value)
    opened = open_run(run.path)
    assert all(curve.isfinite().all() for curve in opened.curves.values())
    environment = opened.record["environment"]
    assert environment["device"] == str(accelerator)
    assert environment["device_name"] == provenance.device_name(accelerator)
    assert accelerator.type == "cpu" or "NVIDIA" in environment["device_name"]
    for stage in STAGES:
        sidecar = json.loads((run.path / f"{stage}.json").read_text())
        assert sidecar["peak_memory_bytes"] > 0
        assert sidecar["device"] == str(accelerator)


def test_both_names_of_a_gpu_mean_the_same_run(accelerator: torch.device, runs: Runs) -> None:
    run = runs("gmi")
    again = mibench.run("gmi", protocol="smoke", device=f"{accelerator.type}:0", out=run.path.parent)
    assert again.reused
    assert again.path == run.path


def test_a_run_is_scored_again_there_and_on_the_cpu(accelerator: torch.device, runs: Runs) -> None:
    run = runs("gmi")
    for device in (str(accelerator), "cpu"):
        done = CliRunner().invoke(cli, ["score", str(run.path), "--device", device, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        metrics = json.loads((run.path / "metrics.json").read_text())
        for name in ("acc1", "knn_distance", "feature_distance", "true_identity_error"):
            expected = run.metrics[name].value
            assert metrics[name]["value"] == pytest.approx(expected, rel=TOLERANCE["metric"], abs=TOLERANCE["metric"])


def test_the_doctor_names_the_device(accelerator: torch.device) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--json"], catch_exceptions=False)
    (found,) = (finding for finding in json.loads(done.stdout) if finding["name"] == "device")
    best = choose_device("auto")
    assert found["detail"] == f"{best} ({provenance.device_name(best)})"


def test_half_precision_gives_finite_images_and_an_accuracy(
    accelerator: torch.device, home: Path, tmp_path: Path
) -> None:
    settings = {"attack.truncation": 0.5}  # as published; smoke's own 1.0 leaves styles as they are
    names = {"protocol": "smoke", "precision": "bfloat16", "device": str(accelerator)}
    run = mibench.run("ppa", **names, settings=settings, out=tmp_path)
    assert 0 <= run.metrics["acc1"].value <= 1
    opened = open_run(run.path)
    assert all(curve.isfinite().all() for curve in opened.curves.values())
    assert json.loads((run.path / "run.json").read_text())["spec"]["precision"] == "bfloat16"


# -- trainings ---------------------------------------------------------------------------------------------------------


class PowerCut(FileCheckpoint):
    """A checkpoint in a file; the power fails once, after so many savings."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self.left = after

    def save(self, state: dict[str, Any]) -> None:
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise Stopped


JUDGE = TrainJudge(width=0.125, size=16, epochs=2, batch_size=16)
READER = TrainRegressor(width=0.125, size=16, epochs=2)
TARGETS = {
    "vgg16": tiny_target(architecture="vgg16", size=32, width=0.0625, augment="light"),
    "facenet64": tiny_target(optimiser="adamw"),
}
STYLEGAN2 = TrainStyleGAN2(**test_prior_training.TINY, images=48, style_mixing=0.5, checkpoint_seconds=0.0)


def kedmi(workshop: TrainingContext) -> TrainedWeights:
    victim = Victim(test_dcgan.TinyClassifier(), image=ImageSpec(size=64), num_classes=4, access=Access.SCORES)
    return test_dcgan.RECIPES["kedmi"].run(PriorTrainingData(test_dcgan.pictures, victim), workshop)


def plgmi(workshop: TrainingContext) -> TrainedWeights:
    return test_plgmi_prior.TINY.run(PriorTrainingData(test_dcgan.pictures, test_plgmi_prior.victim()), workshop)


TRAININGS: dict[str, Callable[[TrainingContext], TrainedWeights]] = {
    **{name: (lambda shop, recipe=recipe: recipe.run(TinySplit(), shop)) for name, recipe in TARGETS.items()},
    "judge": lambda shop: JUDGE.run(TinySplit(), shop),
    "regressor": lambda shop: READER.run(TruthfulSplit(), shop),
    "stylegan2": lambda shop: STYLEGAN2.run(test_prior_training.pictures, shop),
    "gmi": lambda shop: test_dcgan.RECIPES["gmi"].run(test_dcgan.pictures, shop),
    "kedmi": kedmi,
    "plgmi": plgmi,
}


def loads(name: str, trained: TrainedWeights) -> None:
    """What a training hands back builds its network."""
    priors = {"stylegan2": StyleGAN2Prior, "gmi": GMIPrior, "kedmi": KEDMIPrior, "plgmi": PLGMIPrior}
    if name in priors:
        priors[name].build(dict(trained.arguments), trained.weights, trained.image, name=name)
        return
    outputs = {"identity_dim": 6} if name == "regressor" else {"num_classes": CLASSES}
    network, _, _ = build({"judge": JUDGE, "regressor": READER, **TARGETS}[name], Streams(0), **outputs)
    network.load_state_dict(trained.weights)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_goes_on_after_a_power_cut(
    accelerator: torch.device, tmp_path: Path, name: str, precision: str
) -> None:
    if precision == "bfloat16" and name not in ("vgg16", "stylegan2", "gmi"):
        pytest.skip("one of a kind is enough")
    train, checkpoint = TRAININGS[name], PowerCut(tmp_path / "checkpoint.pt", 1)
    workshop = TrainingContext(device=accelerator, checkpoint=checkpoint, precision=precision)
    with pytest.raises(Stopped):
        train(workshop)
    trained = train(workshop)
    assert checkpoint.left < 0, "it ended without saving again"
    assert all(tensor.device == CPU and tensor.isfinite().all() for tensor in trained.weights.values())
    loads(name, trained)
    if accelerator.type == "cpu" and precision == "float32":
        whole = train(TrainingContext(device=accelerator, checkpoint=FileCheckpoint(tmp_path / "other.pt")))
        assert all(torch.equal(whole.weights[key], tensor) for key, tensor in trained.weights.items())
