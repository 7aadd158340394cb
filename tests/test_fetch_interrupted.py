"""`mibench fetch` against a server on this machine: a download that is cut off is continued, or begun again."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from downloads import CONTENT, DOWNLOADED, SHA256, Handler, Server, broken, fetch, files, refused, status, whole

from mibench.downloads import http


def test_a_broken_connection_is_continued_by_range(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue()
    server.script = [broken(700_000), whole()]
    done = fetch()
    assert done.exit_code == 0, done.output
    assert files(home)[DOWNLOADED] == CONTENT
    headers = server.seen[1][1]
    assert headers["Range"] == "bytes=700000-"
    assert headers["If-Range"] == '"one"'
    assert naps == [1.0]


def test_a_part_is_kept_and_the_next_command_continues_it(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue()
    server.script = [broken(700_000), status(503)]
    error = refused(fetch(), "503", "5 attempts", "700000 bytes are kept", "the same command continues")
    assert str(home / DOWNLOADED) in error
    assert set(files(home)) == {f"{DOWNLOADED}.part", f"{DOWNLOADED}.part.json"}
    assert naps == [1.0, 2.0, 4.0, 8.0], "an attempt that brings bytes does not count"
    server.script = [whole()]
    assert fetch().exit_code == 0
    assert files(home)[DOWNLOADED] == CONTENT
    assert set(files(home)) == {DOWNLOADED, f"{DOWNLOADED}.sha256"}


def test_a_server_that_ignores_ranges_begins_again(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue()
    server.script = [broken(700_000), whole(ranges=False)]
    done = fetch()
    assert done.exit_code == 0, done.output
    assert "beginning again" in done.stderr
    assert files(home)[DOWNLOADED] == CONTENT


def test_a_file_that_changed_meanwhile_is_not_patched_together(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue(sha256="")
    other = CONTENT[:-9] + b"different"
    server.script = [broken(700_000, etag='"old"', content=other), whole(etag='"new"')]
    assert fetch().exit_code == 0
    assert files(home)[DOWNLOADED] == CONTENT


@pytest.mark.parametrize("sha256", ["", SHA256])
def test_without_a_mark_only_a_known_hash_allows_to_continue(
    server: Server, catalogue: Any, home: Path, naps: list[float], sha256: str
) -> None:
    catalogue(sha256=sha256)
    server.script = [broken(700_000, etag=None), whole(etag=None)]
    assert fetch().exit_code == 0
    assert files(home)[DOWNLOADED] == CONTENT
    assert ("Range" in server.seen[1][1]) is bool(sha256)


def test_a_part_that_is_whole_already_is_taken(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    part = home / f"{DOWNLOADED}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    server.script = [whole()]
    assert fetch().exit_code == 0
    assert server.seen[0][1]["Range"] == f"bytes={len(CONTENT)}-"
    assert len(server.seen) == 1
    assert files(home)[DOWNLOADED] == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    part = home / f"{DOWNLOADED}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    server.script = [whole()]
    assert fetch().exit_code == 0
    assert files(home)[DOWNLOADED] == CONTENT


def test_a_server_that_sends_the_wrong_piece_is_given_up(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    def wrong(handler: Handler) -> None:
        handler.head(206, Content_Range=f"bytes 0-9/{len(CONTENT)}", Content_Length=10)
        handler.wfile.write(CONTENT[:10])

    catalogue()
    server.script = [broken(700_000), wrong]
    refused(fetch(), "another piece than was asked for, twice")
    assert not files(home)


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_a_server_that_stumbles_is_asked_again(
    server: Server, catalogue: Any, home: Path, naps: list[float], code: int
) -> None:
    catalogue()
    server.script = [status(code), status(code), whole()]
    assert fetch().exit_code == 0
    assert naps == [1.0, 2.0]


def test_a_server_says_how_long_to_wait(server: Server, catalogue: Any, home: Path, naps: list[float]) -> None:
    catalogue()
    server.script = [status(503, Retry_After=17), status(503, Retry_After=100_000), whole()]
    assert fetch().exit_code == 0
    assert naps == [17.0, http.LONGEST_WAIT]


def test_a_silent_server_is_given_up(
    server: Server, catalogue: Any, home: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(http, "TIMEOUT", 0.05)
    catalogue()
    server.script = [lambda handler: release.wait(600) and None]  # type: ignore[func-returns-value]
    try:
        refused(fetch(), "does not answer in time (5 attempts)", "put it at")
    finally:
        release.set()
    assert not files(home)


def test_no_server_at_all(catalogue: Any, home: Path, naps: list[float]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        catalogue(urls=(f"http://127.0.0.1:{taken.getsockname()[1]}/x.pth",))
        refused(fetch(), "no connection: Connection refused (5 attempts)")
    assert not files(home)


def test_a_mirror_is_tried_next(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(urls=(server.url + "?first", server.url + "?second"))
    server.script = [status(404), whole()]
    assert fetch().exit_code == 0
    assert [path.partition("?")[2] for path, _ in server.seen] == ["first", "second"]


def test_ctrl_c_keeps_the_part(server: Server, catalogue: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mibench.downloads.partial_file import PartialFile

    write = PartialFile.write

    def interrupted(part: PartialFile, chunk: bytes) -> None:
        write(part, chunk)
        if part.size > 500_000:
            raise KeyboardInterrupt

    catalogue()
    server.script = [whole()]
    monkeypatch.setattr(PartialFile, "write", interrupted)
    done = fetch()
    assert done.exit_code == 130
    kept = files(home)[f"{DOWNLOADED}.part"]
    assert len(kept) > 500_000
    assert CONTENT.startswith(kept)
    monkeypatch.setattr(PartialFile, "write", write)
    assert fetch().exit_code == 0
    assert files(home)[DOWNLOADED] == CONTENT
    assert server.seen[-1][1]["Range"] == f"bytes={len(kept)}-"
