"""Real attacks, the engine, judges and trainings on a pretend GPU: nothing mixed, the CPU's bits, no waiting in loops.

The first tests are about the pretence itself: it has to catch what a GPU would.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_dcgan
import test_dmmia
import test_gmi
import test_kedmi
import test_ppa
import test_prior_training
import torch
from accelerator import CASES, attacked, dmmia_context, same_bits
from powercut import Memory
from pretend_device import DEVICE, PretendGPU, host
from test_engine import TOY
from test_own_model import as_file, network_of, onnx_file
from test_training_targets import TinySplit, TruthfulSplit, tiny_target
from torch import Tensor, nn

import mibench
from mibench.api import (
    Access,
    Attack,
    ImageSpec,
    MibenchError,
    PriorTrainingData,
    TrainedWeights,
    TrainingContext,
    Victim,
)
from mibench.attacks.priors.stylegan2.training import TrainStyleGAN2
from mibench.metrics.extractors import JudgeExtractor, RegressorExtractor
from mibench.results import open_run
from mibench.system.devices import choose_device, deterministic, out_of_memory
from mibench.targets.custom.importing import import_onnx
from mibench.targets.judges.facenet112 import FaceNet112
from mibench.targets.judges.identity_regressor import IdentityRegressor
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.prelu import ChannelPReLU
from mibench.targets.networks.torchvision_networks import RESNET18, VIT_B_16
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training import supervised
from mibench.targets.training.identity_regressor import TrainRegressor
from mibench.targets.training.torchvision_recipe import TrainLargeTarget

CPU, GPU = torch.device("cpu"), torch.device("cuda")

# -- the pretence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mixture",
    [
        lambda there, here: there + here,
        lambda there, here: here.add_(there),
        lambda there, here: there.add_(here),
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.stack([there.sum(), here.sum()]),
        lambda there, here: there @ here,
        lambda there, here: there.gather(0, torch.tensor([0])),
        lambda there, here: here[torch.tensor([0], device="cuda")],
        lambda there, here: nn.functional.linear(there, here[None]),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: nn.Linear(3, 2)(there),
    ],
)
def test_operands_on_two_devices_raise(mixture: Callable[[Tensor, Tensor], Any]) -> None:
    with PretendGPU(), pytest.raises(RuntimeError, match="same device"):
        mixture(torch.ones(3, device="cuda"), torch.ones(3))


def test_what_a_gpu_takes_from_the_cpu_is_taken() -> None:
    with PretendGPU():
        there, number = torch.arange(3.0, device=GPU), torch.tensor(2.0)
        assert host(there * number + 1).tolist() == [1.0, 3.0, 5.0]
        assert host(torch.where(there > 0, there, number)).tolist() == [2.0, 1.0, 2.0]
        assert host(there[torch.tensor([2, 0])]).tolist() == [2.0, 0.0]
        there[torch.tensor([True, False, False])] = 7.0
        assert host(there).tolist() == [7.0, 1.0, 2.0]
        assert there.device == DEVICE
        assert there.to("cuda") is there


def test_generators_and_numpy_belong_to_their_device() -> None:
    with PretendGPU():
        there = torch.Generator(GPU)
        there.manual_seed(3)
        assert there.device == DEVICE
        drawn = torch.randn(2, generator=there, device=GPU)
        for generator, device in ((torch.Generator(), GPU), (there, CPU)):
            with pytest.raises(RuntimeError, match="type for generator"):
                torch.randn(2, generator=generator, device=device)
        with pytest.raises(TypeError, match="can't convert cuda"):
            drawn.numpy()
        with pytest.raises(RuntimeError, match="non_blocking"):
            drawn.to("cpu", non_blocking=True)
    assert torch.equal(host(drawn), torch.randn(2, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.sum() > 0), 1),
        (lambda x: int(x[0]), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.zeros(3).copy_(x), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.unique(), 1),
        (lambda x: torch.ones(3).to(x.device), 1),
        (lambda x: torch.tensor([1.0], device=x.device), 1),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), 0),
        (lambda x: x.masked_fill(x > 0, 1.0).cumsum(0).to("cuda", torch.float64), 0),
        (lambda x: nn.functional.one_hot(x.long(), 4), 0),
        (lambda x: (x * 2).topk(2).indices.repeat_interleave(3), 0),
    ],
)
def test_waits_are_counted_with_the_line_that_caused_them(work: Callable[[Tensor], Any], waits: int) -> None:
    x = torch.arange(3.0)
    with PretendGPU() as gpu:
        there = x.to(GPU, non_blocking=True)
        work(there)
    assert sum(gpu.waits.values()) == waits
    assert all(where.startswith("tests/test_pretend_device.py:") for _, where in gpu.waits)


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    ],
)
def test_a_training_gives_the_cpu_s_bits(optimiser: Callable[[Any], torch.optim.Optimizer]) -> None:
    def trained(device: torch.device) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(144, 5))
            images, labels = torch.rand(4, 3, 8, 8).to(device), torch.tensor([0, 1, 2, 3], device=device)
        network.to(device)
        steps = optimiser(network.parameters())
        for _ in range(3):
            nn.functional.cross_entropy(network(images), labels).backward()
            steps.step()
            steps.zero_grad()
        return list(host(list(network.state_dict().values())))

    expected = trained(CPU)
    with PretendGPU():
        found = trained(GPU)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# -- attacks -----------------------------------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [
    {"memory_start": "random", "resample_every": 1},
    {"memory_start": "warm", "memory_first": True, "memory_samples": "correct"},
    {"memory_update": "sequential", "memory_slots": 2, "memory_renormalise": True},
    {"features": "raw", "normalise_prototypes": False, "likelihood": "mean", "objective": "ratio"},
    {"features": "logits", "memory_key": "target", "memory_scope": "identity", "memory_start": "warm"},
    {"scope": "shared", "prototype_features": "after", "loss": "poincare"},
    {"order": "sequential", "loss": "max_margin"},
    {"optimise": "w", "resample_every": 1, "learning_rate": 0.05, "loss": "logit"},
]
VARIANTS: dict[str, tuple[Attack, Callable[..., Any]]] = CASES | {
    "kedmi-long": (replace(test_kedmi.TINY, iterations=65), test_gmi.context),  # its noise comes in blocks
    "ppa-shared": (replace(test_ppa.TINY, shared_crop=True, milestones=(1,), truncation=0.5), dmmia_context),
    **{
        ",".join(f"{k}={v}" for k, v in change.items()): (replace(test_dmmia.TINY, **change), dmmia_context)
        for change in CHANGES
    },
}


def cheap(name: str) -> tuple[Attack, Callable[..., Any]]:
    attack, make = VARIANTS[name]
    return (replace(attack, pool_size=16) if hasattr(attack, "pool_size") else attack), make


@pytest.mark.parametrize(
    "name", [name if name in CASES else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_an_attack_on_a_gpu_mixes_nothing_gives_the_cpu_s_bits_and_does_not_wait_in_its_loop(name: str) -> None:
    attack, make = cheap(name)
    expected = attacked(attack, make(micro_batch=7), CPU, settled=False)
    counts: list[Counter[tuple[str, str]]] = []
    for times in (1, 2):
        if times == 2 and attack.budget_setting is not None:  # twice the steps
            attack = replace(attack, **{attack.budget_setting: 2 * getattr(attack, attack.budget_setting)})
        where = make(micro_batch=7)
        with PretendGPU() as gpu:
            found = attacked(attack, where, GPU, settled=False)
        counts.append(gpu.waits)
        assert times == 2 or same_bits(found, expected)
    assert counts[0] == counts[1]


def test_a_victim_that_normalises_does_not_wait() -> None:
    image = ImageSpec(test_dmmia.SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    victim = Victim(test_dmmia.Classifier(), image=image, num_classes=test_dmmia.CLASSES, access=Access.GRADIENTS)
    images = torch.rand(3, 3, 16, 16)
    expected = victim.logits(images)
    with PretendGPU() as gpu:
        victim._network.to(GPU)
        there = images.to(GPU).requires_grad_()
        with torch.inference_mode():
            victim.logits(there)
        before = gpu.waits.copy()
        victim.logits(there).sum().backward()
        assert gpu.waits == before
        assert torch.equal(host(victim.logits(there)), expected)


# -- networks, engine, judges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (lambda: VGG16(5, 0.0625), 64),
        (lambda: IR152(5, 0.125, size=16), 16),
        (lambda: FaceNet64(5, 0.125, size=16), 16),
        (lambda: RESNET18(5, 0.0625, size=32), 32),
        (lambda: VIT_B_16(5, 0.0625, size=32), 32),
    ],
    ids=["vgg16", "ir152", "facenet64", "resnet18", "vit"],
)
def test_a_target_gives_the_cpu_s_logits_and_gradients(network: Callable[[], nn.Module], size: int) -> None:
    built = network()
    victim = Victim(built, image=ImageSpec(size), num_classes=5, access=Access.GRADIENTS)
    images = torch.rand(3, 3, size, size).requires_grad_()
    expected = victim.logits(images)
    (slope,) = torch.autograd.grad(expected.square().sum(), images)
    with PretendGPU() as gpu:
        built.to(GPU)
        there = images.detach().to(GPU).requires_grad_()
        before = gpu.waits.copy()
        logits = victim.logits(there)
        (found,) = torch.autograd.grad(logits.square().sum(), there)
        assert gpu.waits == before
    assert torch.equal(host(logits), expected)
    assert torch.equal(host(found), slope)


def test_judges_and_regressors_answer_on_the_cpu() -> None:
    images = (torch.rand(5, 3, 20, 20) * 255).to(torch.uint8)
    judge, reader = FaceNet112(4, 0.125, size=16), IdentityRegressor(6, size=16)
    image = ImageSpec(16, mean=(0.5,) * 3, std=(0.5,) * 3)

    def answers(device: torch.device) -> list[Tensor]:
        seen = JudgeExtractor(judge, image, name="judge", device=device, batch=3)(images)
        return [*seen, RegressorExtractor(reader, image, name="reader", device=device, batch=3)(images)]

    expected = answers(CPU)
    with PretendGPU():
        found = answers(GPU)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_whole_run_attacks_judges_and_draws(toy: Path, tmp_path: Path) -> None:
    expected = mibench.run("toyattack", **TOY, out=tmp_path / "here", device="cpu")
    with PretendGPU():
        found = mibench.run("toyattack", **TOY, out=tmp_path / "there", device="cuda")
    assert found.path.name == expected.path.name
    assert found.metrics == expected.metrics
    one, other = (open_run(run.path) for run in (found, expected))
    assert one.record["environment"]["device_name"] == "a pretend GPU"
    assert one.samples.equals(other.samples)


def test_the_settings_of_the_engine_change_digits_only() -> None:
    """Under them torch interpolates on a GPU by another formula; what it is made of is still all on one device."""
    attack, make = CASES["dmmia"]
    expected = attacked(attack, make(), CPU)
    where = make()
    with PretendGPU():
        found = attacked(attack, where, GPU)
    assert not torch.equal(found.images, expected.images), "the formula is the same: this test is of no use any more"
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-4)


# -- trainings ---------------------------------------------------------------------------------------------------------


def kedmi(steps: int, workshop: TrainingContext) -> TrainedWeights:
    victim = Victim(test_dcgan.TinyClassifier(), image=ImageSpec(size=64), num_classes=4, access=Access.SCORES)
    recipe = replace(test_dcgan.RECIPES["kedmi"], steps=steps, **QUIET)
    return recipe.run(PriorTrainingData(test_dcgan.pictures, victim), workshop)


QUIET: dict[str, Any] = {"checkpoint_seconds": 1e9, "log_steps": 10**9}
STYLEGAN2 = test_prior_training.TINY | {"checkpoint_seconds": 1e9, "log_images": 10**9, "style_mixing": 0.5}
LARGE: dict[str, Any] = {"architecture": "resnet18", "width": 0.0625, "size": 32, "epochs": 2}
# twice the steps of a training: smaller batches where the number of epochs, which are logged and measured, is to stay
TRAININGS: dict[str, Callable[[int, TrainingContext], TrainedWeights]] = {
    "vgg16": lambda n, shop: tiny_target(
        architecture="vgg16", size=32, augment="light", batch_size=32 // n, width=0.0625
    ).run(TinySplit(), shop),
    "facenet64": lambda n, shop: tiny_target(batch_size=32 // n, optimiser="adamw", augment="shift").run(
        TinySplit(), shop
    ),
    "resnet18": lambda n, shop: TrainLargeTarget(**LARGE, batch_size=32 // n).run(TinySplit(), shop),
    "regressor": lambda n, shop: TrainRegressor(width=0.125, size=16, epochs=1, batch_size=128 // n).run(
        TruthfulSplit(), shop
    ),
    "stylegan2": lambda n, shop: TrainStyleGAN2(**STYLEGAN2, images=40 * n).run(test_prior_training.pictures, shop),
    "gmi": lambda n, shop: replace(test_dcgan.RECIPES["gmi"], steps=4 * n, **QUIET).run(test_dcgan.pictures, shop),
    "kedmi": lambda n, shop: kedmi(4 * n, shop),
}

QUICK = ("resnet18", "regressor", "gmi")  # one of each loop; the others are slow tests


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TRAININGS])
def test_a_training_mixes_nothing_gives_the_cpu_s_weights_and_does_not_wait_in_its_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChannelPReLU, "forward", nn.PReLU.forward)  # on the CPU it has a backward pass of its own
    monkeypatch.setattr(supervised, "REPORT_SECONDS", float("inf"))  # a slow machine would report, and wait, in between
    train = TRAININGS[name]
    expected = train(1, TrainingContext(device=CPU, checkpoint=Memory()))
    counts = []
    for times in (1, 2):
        with PretendGPU() as gpu:
            found = train(times, TrainingContext(device=GPU, checkpoint=Memory()))
        counts.append(gpu.waits)
        if times == 1:
            assert found.weights.keys() == expected.weights.keys()
            for key, tensor in found.weights.items():
                assert tensor.device == CPU
                assert torch.equal(tensor, expected.weights[key]), key
    assert counts[0] == counts[1]


@pytest.mark.parametrize("truncation", [1.0, 0.5])
def test_half_precision_renders_at_any_truncation(truncation: float) -> None:
    prior: Any = dmmia_context().prior
    latents = prior.sample(8, torch.Generator().manual_seed(0))
    prior.truncation = truncation
    expected = prior.decode(latents)
    with deterministic(CPU, "bfloat16"):
        found = prior.decode(latents)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


# -- settings of the device --------------------------------------------------------------------------------------------


def test_settings_of_the_engine_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    with deterministic(CPU, "float32") as varying:
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert varying == set()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("action", ["default", "error", "ignore"])
def test_operations_that_are_not_deterministic_are_collected_and_other_warnings_shown(action: str) -> None:
    text = "{} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True, ...'"
    cublas = "Deterministic behavior was enabled, but this operation is not deterministic because it uses CuBLAS and"
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with deterministic(CPU, "float32") as varying:
            for _ in range(2):
                warnings.warn(text.format("grid_sampler_2d_backward_cuda"), stacklevel=1)
                warnings.warn(text.format("a_second_one"), stacklevel=1)
                warnings.warn(cublas, stacklevel=1)
                warnings.warn("Some Attention defaults to a non-deterministic algorithm. To", stacklevel=1)
            if action == "default":
                warnings.warn("something else", stacklevel=1)
    assert varying == {"grid_sampler_2d_backward_cuda", "a_second_one", "CuBLAS", "Some Attention"}
    assert [str(one.message) for one in shown] == (["something else"] if action == "default" else [])


def test_the_log_of_a_run_names_them(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = nn.AdaptiveAvgPool2d.forward

    def warning(self: nn.AdaptiveAvgPool2d, images: Tensor) -> Tensor:
        warnings.warn("adaptive_cuda does not have a deterministic implementation, but", stacklevel=1)
        return pool(self, images)

    monkeypatch.setattr(nn.AdaptiveAvgPool2d, "forward", warning)
    run = mibench.run("floor", **TOY, out=tmp_path, device="cpu")
    events = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    found = [event["operations"] for event in events if event.get("event") == "not_deterministic"]
    assert found == [["adaptive_cuda"]] * 2  # attacking and scoring


def test_cublas_is_told_before_anything_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "of the user")
    with PretendGPU():
        for name in ("cuda", "cuda:0", "auto"):
            assert choose_device(name).type == "cuda"
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == "of the user"
            monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
            choose_device(name)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "of the user")
        with pytest.raises(MibenchError, match="no such GPU"):
            choose_device("cuda:1")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_what_says_that_memory_is_full(error: Exception, full: bool) -> None:
    assert out_of_memory(error) == full


def test_an_onnx_graph_answers_where_the_images_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # a pretended tensor is of a class of its own, which is taken off the tensors of a person's model
    monkeypatch.setattr("mibench.targets.custom.network.dense", lambda tensor: tensor)
    trained = import_onnx("onnx", [as_file(onnx_file())], {"classes": 5})
    network, images = network_of(trained), torch.rand(3, 3, 8, 8)
    expected = network(images).logits
    with PretendGPU():
        found = network.to(GPU)(images.to(GPU)).logits
        assert found.device == DEVICE
    assert torch.equal(host(found), expected)
