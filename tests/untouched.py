"""A folder that tests share may be read only: whoever writes into it changes what the next test sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def untouched(folder: Path) -> Iterator[Path]:
    """Yields a folder and fails when a file below it was written, added or removed meanwhile."""
    before = contents(folder)
    yield folder
    after = contents(folder)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"tests share {folder}, and one wrote {', '.join(changed)}"
