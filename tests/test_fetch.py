"""`mibench fetch` against a server on this machine: every way a download goes wrong is one line and leaves no file."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
from click.testing import CliRunner, Result
from downloads import CONTENT, SHA256, Answer, Handler, Server, broken, page, status, whole

from mibench.cli import cli
from mibench.downloads import catalogue as known
from mibench.downloads import download, http


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have said that nothing is to be fetched, or through whom."""
    monkeypatch.delenv("MIBENCH_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited between attempts, without waiting."""
    found: list[float] = []
    monkeypatch.setattr(http, "pause", found.append)
    return found


@pytest.fixture
def catalogue(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., known.Asset]:
    """Puts one asset into the catalogue: at the local server, with the published beginning of its hash."""

    def put(**changed: Any) -> known.Asset:
        fields: dict[str, Any] = {
            "name": "net@toy", "what": "a toy", "urls": (server.url,), "path": f"toys/net-{SHA256[:8]}.pth",
            "kind": "torch", "licence": "MIT", "sha256": SHA256[:8],
            "use": "mibench import {path} --as backbone:net@toy",
        }  # fmt: skip
        asset = known.Asset(**(fields | changed))
        monkeypatch.setattr(known, "catalogue", lambda: {asset.name: asset})
        return asset

    return put


def fetch(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["fetch", *map(str, arguments or ["net@toy"])])


def files(home: Path) -> dict[str, bytes]:
    """What lies below a folder. Locks stay on purpose: deleting one that somebody waits for would be a race."""
    found = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".lock")}


def refused(done: Result, *fragments: str) -> str:
    """One ``error:`` line (after progress), exit code 2, nothing on stdout."""
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    for fragment in fragments:
        assert fragment in errors[0], errors[0]
    return errors[0]


PLACE = f"assets/toys/net-{SHA256[:8]}.pth"


def test_a_file_comes_and_says_what_is_next(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    server.script = [whole()]
    done = fetch()
    assert done.exit_code == 0, done.output
    assert files(home) == {PLACE: CONTENT, f"{PLACE}.sha256": f"{SHA256}  net-{SHA256[:8]}.pth\n".encode()}
    assert f"next: mibench import {home / PLACE} --as backbone:net@toy" in done.stdout
    assert "licence: MIT" in done.stderr
    (request,) = server.seen
    assert request[1]["Accept-Encoding"] == "identity"
    again = fetch("net@toy", "--json")
    (row,) = json.loads(again.stdout)
    assert (row["status"], row["sha256"], row["bytes"]) == ("there", SHA256, len(CONTENT))
    assert len(server.seen) == 1


def test_it_goes_where_it_is_told(server: Server, catalogue: Any, home: Path, tmp_path: Path) -> None:
    catalogue()
    server.script = [whole()]
    done = fetch("net@toy", "--to", tmp_path / "new" / "folder")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "folder" / f"net-{SHA256[:8]}.pth").read_bytes() == CONTENT
    assert not home.exists()


def test_a_broken_connection_is_continued_by_range(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue()
    server.script = [broken(700_000), whole()]
    done = fetch()
    assert done.exit_code == 0, done.output
    assert files(home)[PLACE] == CONTENT
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
    assert str(home / PLACE) in error
    assert set(files(home)) == {f"{PLACE}.part", f"{PLACE}.part.json"}
    assert naps == [1.0, 2.0, 4.0, 8.0], "an attempt that brings bytes does not count"
    server.script = [whole()]
    assert fetch().exit_code == 0
    assert files(home)[PLACE] == CONTENT
    assert set(files(home)) == {PLACE, f"{PLACE}.sha256"}


def test_a_server_that_ignores_ranges_begins_again(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue()
    server.script = [broken(700_000), whole(ranges=False)]
    done = fetch()
    assert done.exit_code == 0, done.output
    assert "beginning again" in done.stderr
    assert files(home)[PLACE] == CONTENT


def test_a_file_that_changed_meanwhile_is_not_patched_together(
    server: Server, catalogue: Any, home: Path, naps: list[float]
) -> None:
    catalogue(sha256="")
    other = CONTENT[:-9] + b"different"
    server.script = [broken(700_000, etag='"old"', content=other), whole(etag='"new"')]
    assert fetch().exit_code == 0
    assert files(home)[PLACE] == CONTENT


@pytest.mark.parametrize("sha256", ["", SHA256])
def test_without_a_mark_only_a_known_hash_allows_to_continue(
    server: Server, catalogue: Any, home: Path, naps: list[float], sha256: str
) -> None:
    catalogue(sha256=sha256)
    server.script = [broken(700_000, etag=None), whole(etag=None)]
    assert fetch().exit_code == 0
    assert files(home)[PLACE] == CONTENT
    assert ("Range" in server.seen[1][1]) is bool(sha256)


def test_a_part_that_is_whole_already_is_taken(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    part = home / f"{PLACE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    server.script = [whole()]
    assert fetch().exit_code == 0
    assert server.seen[0][1]["Range"] == f"bytes={len(CONTENT)}-"
    assert len(server.seen) == 1
    assert files(home)[PLACE] == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    part = home / f"{PLACE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    server.script = [whole()]
    assert fetch().exit_code == 0
    assert files(home)[PLACE] == CONTENT


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


QUOTA = "<html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users</body></html>"
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
    assert files(home)[f"{PLACE}.part"] == CONTENT[:700_000]


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
    assert files(home)[PLACE] == CONTENT


def test_the_first_download_is_pinned_and_may_not_change(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(sha256="")
    server.script = [whole()]
    assert fetch().exit_code == 0
    pin = home / f"{PLACE}.sha256"
    done = subprocess.run(["sha256sum", "--check", pin.name], cwd=pin.parent, check=False, capture_output=True)
    assert done.returncode == 0 or shutil.which("sha256sum") is None
    (home / PLACE).unlink()
    server.script = [whole(CONTENT + b"changed")]
    refused(fetch(), f"{SHA256} is pinned in net-{SHA256[:8]}.pth.sha256 by the first download", "delete it")
    assert set(files(home)) == {f"{PLACE}.sha256"}
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


def test_what_lies_there_is_checked_and_never_overwritten(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    place = home / PLACE
    place.parent.mkdir(parents=True)
    for content, told in [
        (QUOTA.encode(), "quota is used up"),
        (b"", "an empty file"),
        (CONTENT + b"x", f"{SHA256[:8]} is published"),
    ]:
        place.write_bytes(content)
        refused(fetch(), told, "move it away and fetch it again")
        assert files(home) == {PLACE: content}
    place.unlink()
    place.mkdir()
    refused(fetch(), "is a folder")
    assert not server.seen


def test_a_file_that_a_person_put_there_counts(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(sha256="")
    place = home / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch("--offline", "net@toy").exit_code == 0
    assert files(home)[f"{PLACE}.sha256"].startswith(SHA256.encode())
    assert not server.seen


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
    part = home / f"{PLACE}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    server.script = [whole()]
    refused(fetch(), "cannot write", "No space left on device", "the same command continues")
    assert not (home / PLACE).exists()


def test_a_folder_that_cannot_be_made_is_one_line(server: Server, catalogue: Any, tmp_path: Path) -> None:
    catalogue()
    (tmp_path / "file").write_text("")
    refused(fetch("net@toy", "--to", tmp_path / "file"), "cannot write", "--to")


def test_two_fetches_do_not_fight(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    place = home / PLACE
    place.parent.mkdir(parents=True)
    with filelock.FileLock(place.with_name(f".{place.name}.lock")):
        refused(fetch(), "is being fetched to", "by another process")
    assert not server.seen
    server.script = [whole()]
    assert fetch().exit_code == 0


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
    kept = files(home)[f"{PLACE}.part"]
    assert len(kept) > 500_000
    assert CONTENT.startswith(kept)
    monkeypatch.setattr(PartialFile, "write", write)
    assert fetch().exit_code == 0
    assert files(home)[PLACE] == CONTENT
    assert server.seen[-1][1]["Range"] == f"bytes={len(kept)}-"


def test_progress_is_told(server: Server, catalogue: Any, home: Path) -> None:
    from mibench.system.progress import Reporter

    class Listener(Reporter):
        def __init__(self) -> None:
            self.told: list[tuple[float, float]] = []

        def update(self, done: float, total: float, text: str = "") -> None:
            self.told.append((done, total))

    listener = Listener()
    server.script = [whole()]
    download.Fetcher(reporter=listener).fetch([catalogue()])
    assert listener.told == sorted(listener.told)
    assert len(listener.told) > 3
    assert listener.told[-1] == (len(CONTENT), len(CONTENT))


def test_what_a_person_must_fetch_is_explained(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIBENCH_DATA", raising=False)
    done = fetch("celeba")
    assert done.exit_code == 2
    assert done.stderr == "error: celeba cannot be downloaded automatically: follow the instructions\n"
    for told in ("mmlab.ie.cuhk.edu.hk", str(home / "data" / "celeba"), "identity_CelebA.txt", "data verify celeba"):
        assert told in done.stdout
    (row,) = json.loads(fetch("celeba", "--json").stdout)
    assert row["status"] == "by hand"
    assert row["instructions"]
    root = tmp_path / "data" / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    (root / "identity_CelebA.txt").touch()
    (root / "list_eval_partition.txt").touch()
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "data"))
    there = fetch("celeba", "--offline")
    assert there.exit_code == 0
    assert "mibench data verify celeba" in there.stdout


def test_unknown_names_are_suggested(home: Path) -> None:
    refused(fetch("incption"), "unknown file 'incption'; did you mean 'inception'?")
    refused(fetch("celeba", "--sha256", SHA256), "belongs to one downloadable file")


def test_the_list_says_what_is_here(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    assert not json.loads(fetch("--list", "--json").stdout)[0]["here"]
    server.script = [whole()]
    fetch()
    assert json.loads(fetch("--list", "--json").stdout)[0]["here"]
    assert "here  net@toy  a toy" in fetch("--list").stdout


def test_doctor_checks_what_was_fetched(server: Server, catalogue: Any, home: Path) -> None:
    from mibench.doctor import _fetched

    catalogue()
    (nothing,) = _fetched()
    assert nothing.ok
    assert "mibench fetch" in nothing.detail
    server.script = [whole()]
    fetch()
    (fine,) = _fetched()
    assert fine.ok
    assert "sha256 agrees" in fine.detail
    (home / PLACE).write_bytes(CONTENT + b"x")
    (bad,) = _fetched()
    assert not bad.ok
