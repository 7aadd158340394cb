"""What a run was made with: versions, code hashes, machine, determinism."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mibench import plugins, registry

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "safetensors", "mibench")
REFEREE = (
    "api",
    "rng",
    "engine",
    "assets",
    "devices",
    "plan",
)  # the part of the referee that decides what an attack produces


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _source_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


@lru_cache(maxsize=512)
def _imports(module: str, source: Path, content: bytes) -> frozenset[str]:
    """Absolute names that a module may import, anywhere in its text; some name attributes rather than modules."""
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            prefix = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (prefix, node.module)))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def modules_of(module: str, root: str) -> dict[str, bytes]:
    """``module`` and every module below ``root`` that it imports, directly or not: name -> source."""
    found: dict[str, bytes] = {}
    waiting = {module}
    while waiting:
        name = waiting.pop()
        source = _source_of(name)
        if source is None or name in found:
            continue
        found[name] = source.read_bytes()
        waiting |= {n for n in _imports(name, source, found[name]) if n == root or n.startswith(f"{root}.")} - set(
            found
        )
    return dict(sorted(found.items()))


def code_hash(module: str, root: str | None = None) -> str:
    """SHA-256 over the sources of ``module`` and of what it imports below ``root`` (its own package by default)."""
    digest = hashlib.sha256()
    for name, source in modules_of(module, root or module.rpartition(".")[0] or module).items():
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def code_hashes(entries: Iterable[registry.Entry]) -> dict[str, str]:
    """What decides reconstructions: the referee's core, and each party's module with what it imports of its own kind.

    Returns:
        ``attack dmmia`` -> sha256. Another attack's file, a report or the command line do not count.
    """
    hashes = {f"mibench.{name}": code_hash(f"mibench.{name}", f"mibench.{name}") for name in REFEREE}
    return hashes | {f"{entry.kind} {entry.name}": code_hash(entry.module) for entry in entries}


def attack_code(entry: registry.Entry) -> str | None:
    """Hash of the source of an attack that was brought by its path, a part of its run's digest; None when installed.

    Of a package it covers what :func:`code_hash` does, of a single file also the files beside it that it imports.
    """
    if entry.installed:
        return None
    source = _source_of(entry.module)
    return code_hash(entry.module) if source is None or "." in entry.module else plugins.source_hash(source)


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+changes`` when it is not clean; None outside one."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "api.py") is None:  # installed into a folder of somebody else's repository
        return None
    commit = git("rev-parse", "HEAD")
    return None if commit is None else commit + ("+changes" if git("status", "--porcelain", "-uno") else "")


def device_name(device: torch.device) -> str:
    """What computes, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, Any]:
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
