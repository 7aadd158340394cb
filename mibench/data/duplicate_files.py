"""Files with the same content, found without reading more than need be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mibench.data.content_hashes import content_hashes
from mibench.errors import MibenchError


def copies(some: Sequence[Path], others: Sequence[Path]) -> list[tuple[str, str]]:
    """Pairs (of ``some``, of ``others``) with equal bytes. Only files that have a size in common are read.

    Raises:
        MibenchError: a file has gone, or cannot be read.
    """
    try:
        sizes, other_sizes = _by_size(some), _by_size(others)
    except OSError as error:
        raise MibenchError(f"cannot read {error.filename}: {error.strerror}", cure="restore it") from error
    shared = sizes.keys() & other_sizes.keys()
    ours = [path for size in shared for path in sizes[size]]
    theirs = [path for size in shared for path in reversed(other_sizes[size])]
    hashes = content_hashes([*ours, *theirs])
    known = dict(zip(hashes[len(ours) :], theirs, strict=True))
    pairs = [
        (path, known[content]) for path, content in zip(ours, hashes[: len(ours)], strict=True) if content in known
    ]
    return [(str(path), str(other)) for path, other in sorted(pairs)]


def _by_size(paths: Sequence[Path]) -> dict[int, list[Path]]:
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size].append(path)
    return by_size
