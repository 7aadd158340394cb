"""What a run was made with: versions, commit, machine, device."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "safetensors", "mibench")


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""
    version_of: dict[str, str | None] = {}
    for name in names:
        try:
            version_of[name] = version(name)
        except PackageNotFoundError:
            version_of[name] = None
    return version_of


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+changes`` when it is not clean; None outside one."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if (
        git("ls-files", "--error-unmatch", "registry.py") is None
    ):  # installed into a folder of somebody else's repository
        return None
    commit = git("rev-parse", "HEAD")
    return None if commit is None else commit + ("+changes" if git("status", "--porcelain", "-uno") else "")


def device_name(device: torch.device) -> str:
    """What computes, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, object]:
    """The record of a run's surroundings. Sums on a CPU may depend on the number of threads, so it is recorded."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git_commit": git_commit(),
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
