"""The ledger of file contents: a file is read once for as long as it stays as it is."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mibench.data import content_hashes as contents
from mibench.data.content_hashes import content_hashes
from mibench.errors import MibenchError
from mibench.system.progress import Reporter


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Every test has a ledger of its own."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on; files count as settled at once."""
    names: list[str] = []
    honest = contents._sha256

    def counting(key: bytes) -> bytes:
        names.append(Path(os.fsdecode(key)).name)
        return honest(key)

    monkeypatch.setattr(contents, "_sha256", counting)
    monkeypatch.setattr(contents, "SETTLED", -1)
    return names


def write(folder: Path, names: Sequence[str] = ("a", "b", "c")) -> list[Path]:
    for name in names:
        (folder / name).write_bytes(name.encode() * 9)
    return [folder / name for name in names]


def expected(paths: Sequence[Path]) -> list[bytes]:
    return [hashlib.sha256(path.read_bytes()).digest() for path in paths]


def test_a_file_is_read_once(tmp_path: Path, read: list[str]) -> None:
    paths = write(tmp_path)
    for _ in range(2):
        assert content_hashes([*paths, paths[0]]) == expected([*paths, paths[0]])
    assert sorted(read) == ["a", "b", "c"]


def test_more_files_than_fit_one_question(tmp_path: Path, read: list[str]) -> None:
    paths = write(tmp_path, [f"{number:04d}" for number in range(1203)])
    assert content_hashes(paths) == expected(paths)
    assert content_hashes(paths[::-1]) == expected(paths)[::-1]
    assert len(read) == 1203


def in_place(path: Path) -> None:
    path.write_bytes(b"z" * path.stat().st_size)


def renamed_over(path: Path) -> None:
    path.with_name("new").write_bytes(b"y" * path.stat().st_size)
    path.with_name("new").rename(path)


@pytest.mark.parametrize("change", [in_place, renamed_over])
@pytest.mark.parametrize("times", ["put back", "new"])
def test_a_changed_file_is_read_again_and_no_other(change: object, times: str, tmp_path: Path, read: list[str]) -> None:
    paths = write(tmp_path)
    content_hashes(paths)
    read.clear()
    before = paths[1].stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    change(paths[1])  # type: ignore[operator]
    if times == "put back":
        os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (paths[1].stat().st_size, paths[1].stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert content_hashes(paths) == expected(paths)
    assert read == ["b"]


def test_what_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within one tick of the clock leave equal times."""
    monkeypatch.setattr(contents, "SETTLED", 10**12)
    paths = write(tmp_path)
    for _ in range(2):
        assert content_hashes(paths) == expected(paths)
    assert sorted(read) == ["a", "a", "b", "b", "c", "c"]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(tmp_path, ["a"])
    counting = contents._sha256

    def slow(key: bytes) -> bytes:
        found = counting(key)
        path.write_bytes(b"later, and longer than before")
        return found

    monkeypatch.setattr(contents, "_sha256", slow)
    content_hashes([path])
    monkeypatch.setattr(contents, "_sha256", counting)
    assert content_hashes([path]) == expected([path])


def test_what_was_read_before_an_interruption_stays(tmp_path: Path, read: list[str]) -> None:
    paths = write(tmp_path, [f"{number:02d}" for number in range(64)])

    class Impatient(Reporter):
        def aside(self, text: str):  # type: ignore[no-untyped-def]
            from contextlib import nullcontext

            return nullcontext(self)

        def update(self, done: float, total: float, text: str = "") -> None:
            if done >= 32:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        content_hashes(paths, Impatient())
    read.clear()
    assert content_hashes(paths) == expected(paths)
    assert sorted(read) == [path.name for path in paths[32:]]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(500), "other columns"])
def test_a_broken_ledger_is_begun_again(content: bytes | str, tmp_path: Path, home: Path, read: list[str]) -> None:
    ledger = home / "cache" / "contents.sqlite"
    ledger.parent.mkdir(parents=True)
    if isinstance(content, str):
        with closing(sqlite3.connect(ledger)) as connection, connection:
            connection.execute("CREATE TABLE files (something)")
    else:
        ledger.write_bytes(content)
    paths = write(tmp_path)
    for _ in range(2):
        assert content_hashes(paths) == expected(paths)
    assert sorted(read) == ["a", "b", "c"]


def test_a_ledger_that_cannot_be_written_costs_time_only(
    tmp_path: Path, home: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    paths = write(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert content_hashes(paths) == expected(paths)
    assert len(read) == 6
    assert "cannot be opened" in caplog.text


def test_without_the_cache_nothing_is_written(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_CACHE", "0")
    paths = write(tmp_path)
    assert content_hashes(paths) == expected(paths)
    assert not home.exists()


def test_several_readers_at_once(tmp_path: Path, read: list[str]) -> None:
    paths = write(tmp_path, [f"{number:02d}" for number in range(50)])
    found: list[list[bytes]] = []
    readers = [threading.Thread(target=lambda: found.append(content_hashes(paths))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert found == [expected(paths)] * 4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "it is no file"),
        (lambda path: path.symlink_to(path.name), "Too many levels"),
        (lambda path: os.mkfifo(path), "it is no file"),
    ],
)
def test_anything_but_a_file_is_one_line_and_never_waited_for(make: object, reason: str, tmp_path: Path) -> None:
    make(tmp_path / "x.png")  # type: ignore[operator]
    with pytest.raises(MibenchError, match=rf"x\.png cannot be read: {reason}.*; restore it"):
        content_hashes([tmp_path / "x.png"])
