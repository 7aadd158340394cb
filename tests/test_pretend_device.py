"""The pretend GPU itself: it has to catch what a GPU would. And the settings of a device."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import CPU, DEVICE, GPU, PretendGPU, host
from test_engine import TOY
from torch import Tensor, nn

import mibench
from mibench.api import MibenchError
from mibench.system.devices import choose_device, deterministic, out_of_memory


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
