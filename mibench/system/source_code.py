"""Hashes of source code: a module with what it imports of its own."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path


def source_of(module: str) -> Path | None:
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
        source = source_of(name)
        if source is None or name in found:
            continue
        found[name] = source.read_bytes()
        waiting |= {n for n in _imports(name, source, found[name]) if n == root or n.startswith(f"{root}.")} - set(
            found
        )
    return dict(sorted(found.items()))


def _party(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "mibench" else ".".join(parts[:-1]) or module


def code_hash(module: str, root: str | None = None) -> str:
    """SHA-256 over the sources of ``module`` and of what it imports below ``root``.

    Args:
        module: dotted name.
        root: package that counts; None: the party of a module of mibench (``mibench.attacks``), else its own package.
    """
    digest = hashlib.sha256()
    for name, source in modules_of(module, root or _party(module)).items():
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()
