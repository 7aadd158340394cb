"""Hashes of source code: a module with what it imports of its own."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path


def source_of(module: str) -> Path | None:
    """The file of a module of Python; None for what has none. It imports the packages above the module."""
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
    modules: set[str] = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            prefix = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (prefix, node.module)))
            modules |= {base, *(".".join(filter(None, (base, alias.name))) for alias in node.names)} - {""}
    return frozenset(modules)


def modules_of(
    module: str, belongs: Callable[[str, Path], bool], find: Callable[[str], Path | None] = source_of
) -> dict[str, bytes]:
    """``module`` and every module that it imports, directly or not: name -> source, in alphabetical order.

    Args:
        module: dotted name.
        belongs: whether a module of this name and file counts; ``module`` itself always does.
        find: the file of a module; None for what has no source.
    """
    sources: dict[str, bytes] = {}
    waiting, seen = [module], {module}
    while waiting:
        name = waiting.pop()
        path = find(name)
        if path is None or (name != module and not belongs(name, path)):
            continue
        sources[name] = path.read_bytes()
        fresh = _imports(name, path, sources[name]) - seen
        seen |= fresh
        waiting += fresh
    return dict(sorted(sources.items()))


def source_digest(sources: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over names and sources, as :func:`modules_of` gives them."""
    digest = hashlib.sha256()
    for name, source in sources.items():
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def _party(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "mibench" else ".".join(parts[:-1]) or module


def code_hash(module: str, root: str | None = None) -> str:
    """SHA-256 over the sources of ``module`` and of what it imports below ``root``.

    Args:
        module: dotted name.
        root: package that counts; None: the party of a module of mibench (``mibench.attacks``), else its own package.
    """
    root = root or _party(module)
    return source_digest(modules_of(module, lambda name, _: name == root or name.startswith(f"{root}.")))
