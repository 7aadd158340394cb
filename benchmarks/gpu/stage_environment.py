"""Stage a: what the machine is, and how fast it multiplies, copies and launches.

The rates are the denominators of the speed stage: a share of a datasheet's number would be a share of a hope.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from stage import Stage, one_line, synchronise

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "pydantic", "safetensors", "timm")
PRECISIONS = ("float32", "tf32", "bfloat16")


def main() -> None:
    """Describe and measure."""
    stage = Stage(__doc__)
    stage.record(machine=machine(), versions=versions())
    if stage.device.type == "cuda":
        stage.record(gpu=gpu(stage.device))
    size = 512 if stage.tiny else 8192
    for precision in PRECISIONS:
        try:
            rate = matmul_rate(stage.device, precision, size)
        except RuntimeError as error:
            stage.add("matmul", {"precision": precision, "size": size, "reason": one_line(error)})
            continue
        stage.add("matmul", {"precision": precision, "size": size, "tflops": rate / 1e12})
        stage.say(f"{precision}: {rate / 1e12:.1f} TFLOP/s in a product of {size} x {size}")
    megabytes = 16 if stage.tiny else 1024
    stage.record(bandwidth=bandwidth(stage.device, megabytes * 2**20))
    stage.say(f"memory {stage.found['bandwidth']['device_gb_per_second']:.0f} GB/s, counting reads and writes")
    stage.record(seconds_per_small_operation=launch_seconds(stage.device))
    stage.say(f"{1e6 * stage.found['seconds_per_small_operation']:.1f} microseconds for a small operation")


def machine() -> dict[str, Any]:
    """The host."""
    model = ""
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = (line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name"))
        model = next(lines, "").partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": model or platform.processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str | None]:
    """Of the libraries that decide what is measured, and of CUDA below them."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return found | {"cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}


def gpu(device: torch.device) -> dict[str, Any]:
    """The device, as torch and the driver name it."""
    facts = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    found: dict[str, Any] = {
        "name": facts.name,
        "memory_bytes": total,
        "free_bytes": free,
        "multiprocessors": facts.multi_processor_count,
        "capability": f"{facts.major}.{facts.minor}",
    }
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
        found["driver"] = done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
    except (OSError, subprocess.TimeoutExpired):
        found["driver"] = None
    return found


@contextmanager
def arithmetic(precision: str) -> Iterator[torch.dtype]:
    """Compute matrix products and convolutions in one of PRECISIONS; gives the type of the operands."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield torch.bfloat16 if precision == "bfloat16" else torch.float32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def matmul_rate(device: torch.device, precision: str, size: int) -> float:
    """Operations per second of a product of two square matrices of random numbers; the median of ten."""
    with arithmetic(precision) as dtype:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return 2 * size**3 / median_seconds(lambda: a @ b, device)


def bandwidth(device: torch.device, count: int) -> dict[str, float | None]:
    """GB/s of copies of ``count`` bytes: within the device (read plus written), and between host and device."""
    source = torch.randint(256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    inside = 2 * count / median_seconds(lambda: target.copy_(source), device) / 1e9
    found: dict[str, float | None] = {
        "device_gb_per_second": inside,
        "host_to_device_gb_per_second": None,
        "pinned_host_to_device_gb_per_second": None,
    }
    if device.type == "cuda":
        host = torch.randint(256, (min(count, 2**28),), dtype=torch.uint8)
        for name, block in (("", host), ("pinned_", host.pin_memory())):
            seconds = median_seconds(lambda block=block: target[: len(block)].copy_(block), device, repetitions=3)
            found[f"{name}host_to_device_gb_per_second"] = len(host) / seconds / 1e9
    return found


def launch_seconds(device: torch.device, count: int = 1000) -> float:
    """Seconds of an operation on so few numbers that only its launch takes time."""
    small = torch.ones(16, device=device)

    def many() -> None:
        for _ in range(count):
            small.add_(1)

    return median_seconds(many, device, repetitions=5) / count


def median_seconds(work: Callable[[], Any], device: torch.device, repetitions: int = 10) -> float:
    """Median of repeated timings, each from an idle device to an idle device, after two that do not count."""
    seconds = []
    for repetition in range(repetitions + 2):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        if repetition >= 2:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
