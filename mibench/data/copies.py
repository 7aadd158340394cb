"""Files with the same content, found without reading more than need be."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mibench.errors import MibenchError


def copies(some: Sequence[Path], others: Sequence[Path]) -> list[tuple[str, str]]:
    """Pairs (of ``some``, of ``others``) with equal bytes. Only files that have a size in common are read.

    Raises:
        MibenchError: a file has gone.
    """
    try:
        sizes, other_sizes = _by_size(some), _by_size(others)
        found = []
        for size in sizes.keys() & other_sizes.keys():
            known = {_sha256(path): path for path in reversed(other_sizes[size])}
            found += [(path, known[key]) for path in sizes[size] if (key := _sha256(path)) in known]
    except OSError as error:
        raise MibenchError(f"cannot read {error.filename}: {error.strerror}; restore it") from error
    return [(str(path), str(other)) for path, other in sorted(found)]


def _by_size(paths: Sequence[Path]) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        found[path.stat().st_size].append(path)
    return found


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
