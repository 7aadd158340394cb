"""What guards folders that tests share notices whoever writes into one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from untouched import untouched


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "old").write_text("changed"),
        lambda folder: (folder / "new").write_text(""),
        lambda folder: (folder / "old").unlink(),
    ],
    ids=["changed", "added", "removed"],
)
def test_a_write_into_a_shared_folder_fails(tmp_path: Path, write: Callable[[Path], object]) -> None:
    (tmp_path / "old").write_text("as it was")
    with pytest.raises(AssertionError, match=r"one wrote (old|new)"), untouched(tmp_path):
        write(tmp_path)


def test_reading_a_shared_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("as it was")
    with untouched(tmp_path) as folder:
        assert (folder / "old").read_text() == "as it was"
