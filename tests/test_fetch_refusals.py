"""`mibench fetch` against a server on this machine: what is not the file is one line and leaves no file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from downloads import (
    CONTENT,
    DOWNLOADED,
    QUOTA,
    SHA256,
    Answer,
    Handler,
    Server,
    broken,
    fetch,
    files,
    page,
    refused,
    status,
    whole,
)

from mibench.downloads import download, http

LOGIN = "<!DOCTYPE html><html><form action='https://accounts.google.com/ServiceLogin'>Sign in</form></html>"
VIRUS = "<html><body>can't scan this file for viruses <a>Download anyway</a></body></html>"


@pytest.mark.parametrize(
    ("answer", "fragments"),
    [
        pytest.param(page(QUOTA), ("quota is used up", "tomorrow"), id="quota page"),
        pytest.param(page(QUOTA, code=403), ("403", "quota is used up"), id="quota page that admits it"),
        pytest.param(page(LOGIN), ("a login page",), id="login page"),
        pytest.param(page(VIRUS), ("confirm it in a browser",), id="virus scan"),
        pytest.param(page("<html>hello</html>"), ("a web page, not the file",), id="another page"),
        pytest.param(status(200, b"\n <!doctype HTML><p>x", Content_Type="application/octet-stream"),
                     ("a web page, not the file",), id="a page that says it is a file"),
        pytest.param(status(200, b"<?xml version='1.0'?><Error>AccessDenied</Error>"), ("a web page",), id="XML error"),
        pytest.param(status(404), ("404",), id="not there"),
        pytest.param(status(401), ("401",), id="not allowed"),
        pytest.param(status(204), ("204",), id="no content"),
        pytest.param(status(200, b"\x1f\x8b" + bytes(600)), ("a gzip archive, not a PyTorch",), id="gzip"),
        pytest.param(status(200, b"version https://git-lfs.github.com/spec/v1\n"), ("pointer of Git LFS",), id="LFS"),
        pytest.param(status(200, b"hello, world"), ("begins with 68 65 6c",), id="text"),
        pytest.param(status(200), ("an empty file",), id="empty"),
        pytest.param(whole(Content_Encoding="gzip"), ("packs the file as gzip",), id="packed"),
        pytest.param(status(302, Location="file:///etc/hosts"), ("from http to file", "unsafe"), id="redirect to file"),
        pytest.param(status(302, Location="ftp://127.0.0.1/x"), ("from http to ftp", "unsafe"), id="redirect to ftp"),
        pytest.param(status(302, Location="data:text/plain,x"), ("from http to data", "unsafe"), id="redirect to data"),
        pytest.param(status(302, Location="/again"), ("302", "infinite loop"), id="redirects without end"),
        pytest.param(whole(CONTENT[:-1] + b"?"), ("its sha256 is", f"{SHA256[:8]} is published", "nothing is kept"),
                     id="another file"),
    ],
)  # fmt: skip
def test_what_is_not_the_file_leaves_nothing(
    server: Server, catalogue: Any, home: Path, answer: Answer, fragments: tuple[str, ...]
) -> None:
    catalogue()
    server.script = [answer]
    error = refused(fetch(), *fragments)
    assert "net@toy" in error or f"net-{SHA256[:8]}.pth" in error
    assert not files(home)


def test_a_page_in_the_middle_of_a_download_is_not_appended(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    def late(handler: Handler) -> None:
        body = QUOTA.encode()
        span = f"bytes 700000-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.head(206, Content_Range=span, Content_Type="text/html", Content_Length=len(body))
        handler.wfile.write(body)

    catalogue()
    server.script = [broken(700_000), late]
    refused(fetch(), "quota is used up", "700000 bytes are kept")
    assert files(home)[f"{DOWNLOADED}.part"] == CONTENT[:700_000]


def test_a_redirect_is_followed(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    server.script = [status(302, Location="/elsewhere"), whole()]
    assert fetch().exit_code == 0
    assert [path for path, _ in server.seen][1] == "/elsewhere"


@pytest.mark.parametrize("new", ["http://example.org/x", "file:///x", "ftp://example.org/x", "javascript:x"])
def test_a_redirect_never_weakens_https(new: str) -> None:
    http.check_redirect("https://example.org/x", "https://cdn.example.org/y")
    with pytest.raises(http.NotServed, match="refused as unsafe"):
        http.check_redirect("https://example.org/x", new)


def test_a_size_that_does_not_fit_is_refused_at_once(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(size=len(CONTENT) - 1)
    server.script = [whole()]
    refused(fetch(), f"offers {len(CONTENT)} bytes, the file has {len(CONTENT) - 1}")
    assert not files(home)


def test_an_answer_without_a_length_may_not_go_on_for_ever(server: Server, catalogue: Any, home: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.head(200)
        handler.wfile.write(CONTENT)
        while True:  # until the client hangs up
            handler.wfile.write(bytes(1 << 16))

    catalogue(size=len(CONTENT))
    server.script = [endless]
    refused(fetch(), f"more than the {len(CONTENT)} bytes")
    assert not files(home)


def test_an_answer_without_a_length_is_taken_by_its_hash(server: Server, catalogue: Any, home: Path) -> None:
    def unannounced(handler: Handler) -> None:
        handler.head(200)
        handler.wfile.write(CONTENT)

    catalogue()
    server.script = [unannounced]
    assert fetch().exit_code == 0
    assert files(home)[DOWNLOADED] == CONTENT


def test_the_first_download_is_pinned_and_may_not_change(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(sha256="")
    server.script = [whole()]
    assert fetch().exit_code == 0
    pin = home / f"{DOWNLOADED}.sha256"
    done = subprocess.run(["sha256sum", "--check", pin.name], cwd=pin.parent, check=False, capture_output=True)
    assert done.returncode == 0 or shutil.which("sha256sum") is None
    (home / DOWNLOADED).unlink()
    server.script = [whole(CONTENT + b"changed")]
    refused(fetch(), f"{SHA256} is pinned in net-{SHA256[:8]}.pth.sha256 by the first download", "delete it")
    assert set(files(home)) == {f"{DOWNLOADED}.sha256"}
    pin.write_text("nonsense")
    refused(fetch(), "holds no sha256; delete it")


def test_a_hash_can_be_demanded(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(sha256="")
    server.script = [whole()]
    refused(fetch("net@toy", "--sha256", "0" * 64), f"{'0' * 64} is demanded by --sha256")
    assert not files(home)
    refused(fetch("net@toy", "--sha256", "xyz"), "'xyz' is not a sha256")
    refused(fetch("--list", "--sha256", SHA256), "--sha256 needs the NAME")
    assert fetch("net@toy", "--sha256", SHA256.upper()).exit_code == 0


def test_a_full_disk_is_noticed_beforehand(
    server: Server, catalogue: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=download.SPARE + 1000))
    catalogue()
    server.script = [whole()]
    refused(fetch(), "no room for", "1 MB are still to come", "--to")
    assert not files(home)
    catalogue(size=len(CONTENT))
    refused(fetch(), "no room for")
    assert len(server.seen) == 1, "a known size needs no server to see that there is no room"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_one_line(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    part = home / f"{DOWNLOADED}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    server.script = [whole()]
    refused(fetch(), "cannot write", "No space left on device", "the same command continues")
    assert not (home / DOWNLOADED).exists()


def test_a_folder_that_cannot_be_made_is_one_line(server: Server, catalogue: Any, tmp_path: Path) -> None:
    catalogue()
    (tmp_path / "file").write_text("")
    refused(fetch("net@toy", "--to", tmp_path / "file"), "cannot write", "--to")
