"""Real attacks, the engine and judges on a pretend GPU: nothing mixed, the CPU's bits, no waiting in loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_dmmia
import test_gmi
import test_kedmi
import test_ppa
import torch
from accelerator import CASES, attacked, dmmia_context, same_bits
from own_files import onnx_file
from own_models import as_file, network_of
from pretend_device import CPU, DEVICE, GPU, PretendGPU, host
from test_engine import TOY
from torch import Tensor, nn

import mibench
from mibench.api import Access, Attack, ImageSpec, Victim
from mibench.metrics.extractors import JudgeExtractor, RegressorExtractor
from mibench.results import open_run
from mibench.system.devices import deterministic
from mibench.targets.custom.importing import import_onnx
from mibench.targets.judges.facenet112 import FaceNet112
from mibench.targets.judges.identity_regressor import IdentityRegressor
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.torchvision_networks import RESNET18, VIT_B_16
from mibench.targets.networks.vgg16 import VGG16

CHANGES: list[dict[str, Any]] = [
    {"memory_start": "random", "resample_every": 1},
    {"memory_start": "warm", "memory_first": True, "memory_samples": "correct"},
    {"memory_update": "sequential", "memory_slots": 2, "memory_renormalise": True},
    {"memory_update": "growing", "idr_from": 1},
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


QUICK = ("floor", "gmi-best", "kedmi", "ppa", "dmmia")  # one of each attack; the others are slow tests


def cheap(name: str) -> tuple[Attack, Callable[..., Any]]:
    attack, make = VARIANTS[name]
    return (replace(attack, pool_size=16) if hasattr(attack, "pool_size") else attack), make


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
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
