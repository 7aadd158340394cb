"""What a bare machine with a GPU lacks, and how the checkout itself gets on its path. Standard library only.

Such a machine has torch and the usual scientific libraries, no network and no root. ``pack`` collects what is missing
where a package index can be reached; ``run`` installs that into a folder of its own beside a link to the checkout.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
WHEELS = HERE / "wheels"  # ignored by git
PYTHON = "3.12"

# Requirements of mibench and of its tests that such a machine was seen to have; the versions are the machine's.
PRESENT = (
    "torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "click", "rich", "PyYAML",
    "safetensors", "jinja2", "filelock", "pytest", "timm", "typing-extensions",
)  # fmt: skip
# ... and what it was seen to lack: pack's list, with what these need in turn.
MISSING = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "rich-click",
    "platformdirs",
    "pytorch-fid",
    "prdc",
)
SOURCES = ("mibench", "attacks", "targets", "reports", "tests", "benchmarks")  # what decides what a run measures


def project() -> dict[str, object]:
    """The table ``[project]`` of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def pinned() -> dict[str, str]:
    """Normalised name -> version, from constraints.txt."""
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normalised(name): version.strip() for name, version in pairs}


def normalised(name: str) -> str:
    """A distribution's name as indices compare it."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def source_digest() -> str:
    """First 16 digits of a SHA-256 over the checkout's Python and YAML files: names the code where git cannot."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((CHECKOUT / folder).rglob("*")):
            inside = path.relative_to(CHECKOUT)
            if path.suffix in (".py", ".yaml") and path.is_file() and not _through_a_link(inside):
                digest.update(inside.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _through_a_link(inside: Path) -> bool:
    return any((CHECKOUT / parent).is_symlink() for parent in inside.parents)


def commit() -> str | None:
    """The checkout's commit, with ``+changes`` when tracked files differ from it; None outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    return None if head is None else head + ("+changes" if git("status", "--porcelain", "-uno") else "")


def lacking() -> list[str]:
    """Of PRESENT, what this interpreter has not got."""
    found = []
    for name in PRESENT:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


def site_folder(wheels: Path, into: Path) -> Path:
    """Install the packed wheels into ``into`` and put the checkout on the same path. No network, no root.

    The checkout is linked, not built: nothing is stale, nothing travels twice, and the links inside ``mibench/`` give
    attacks, targets and reports their import names. Its metadata is what the entry points need.

    Raises:
        SystemExit: wheels that are missing or made for another interpreter, in one line with the cure.
    """
    files = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if not files:
        raise SystemExit(f"error: no wheels in {wheels}; run benchmarks/gpu/pack where a package index can be reached")
    into.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir",
         "--disable-pip-version-check", "--upgrade", "--target", str(into), *map(str, files)],
        capture_output=True, text=True, check=False, env={**os.environ, "PIP_NO_INDEX": "1"},
    )  # fmt: skip
    if done.returncode:
        reason = " ".join(done.stderr.split())[-400:]
        raise SystemExit(
            f"error: the wheels in {wheels} cannot be installed for Python {sys.version.split()[0]} ({reason}); pack "
            f"again with --python {sys.version_info[0]}.{sys.version_info[1]}"
        )
    table = project()
    link = into / "mibench"
    if not link.is_symlink():
        link.symlink_to(CHECKOUT / "mibench", target_is_directory=True)
    metadata = into / f"{table['name']}-{table['version']}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {table['version']}\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(entry_points(table), encoding="utf-8")
    return into


def entry_points(table: dict[str, object]) -> str:
    """The entry points of pyproject.toml as an installed distribution has them."""
    groups = {"console_scripts": table["scripts"], **table["entry-points"]}  # type: ignore[dict-item]
    parts = []
    for group, entries in groups.items():
        parts += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]  # type: ignore[attr-defined]
    return "\n".join(parts)
