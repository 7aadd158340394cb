"""mibench view: pages over HTTP for a browser on this machine, and for nobody else."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from html_pages import check
from reported_runs import make_run
from untouched import contents

import mibench
from mibench.errors import MibenchError
from mibench.viewer import Viewer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of a name that is no plain word, one that is not finished, and a link that leads elsewhere."""
    top = tmp_path_factory.mktemp("viewed")
    make_run(top / "runs" / "dmmia-1", "dmmia", 0.12, identities=2, samples=2)
    make_run(top / "runs" / "deeper" / "a <b> & c%2e", "ppa", 0.2, identities=2, samples=2)
    (top / "runs" / "begun").mkdir()
    (top / "runs" / "begun" / "run.json").write_text('{"status": "running", "spec": {"attack": "gmi"}}')
    (top / "runs" / "broken").mkdir()
    (top / "runs" / "broken" / "run.json").write_text("{")
    shutil.copytree(top / "runs" / "dmmia-1", top / "secret")
    (top / "runs" / "link").symlink_to(top / "secret", target_is_directory=True)
    (top / "secret.txt").write_text("secret")
    return top


@pytest.fixture(scope="module")
def viewer(folder: Path) -> Iterator[Viewer]:
    with mibench.view(folder / "runs") as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
    thread.join(timeout=10)
    assert not thread.is_alive()


def ask(
    viewer: Viewer, path: str, method: str = "GET", host: str | None = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = HTTPConnection("127.0.0.1", viewer.port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{viewer.port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), text


def test_the_index_lists_every_run_and_its_links_lead_to_pages(viewer: Viewer, folder: Path) -> None:
    before = contents(folder)
    status, headers, html = ask(viewer, "/")
    assert status == 200
    page = check(html)
    text = " ".join(page.text)
    assert "4 runs, 2 of them complete" in text
    for word in ("begun", "running", "cannot be read", "a <b> & c%2e", "data-sortable"):
        assert word in text or word in html
    links = [link["href"] for link in page.all("a") if link["href"].startswith("/run/")]
    assert len(links) == 2
    for link in links:
        status, _, html = ask(viewer, link)
        assert status == 200
        check(html)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert contents(folder) == before


def test_all_runs_side_by_side(viewer: Viewer) -> None:
    status, _, html = ask(viewer, "/compare/attack")
    assert status == 200
    assert "2 runs of 2 attacks" in " ".join(check(html).text)


def test_only_the_loopback_address_is_listened_on(viewer: Viewer) -> None:
    assert viewer.url == f"http://127.0.0.1:{viewer.port}/"
    assert viewer._server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:{port}.evil.example", "localhost:1", ""]
)
def test_another_host_is_refused(viewer: Viewer, host: str) -> None:
    status, _, text = ask(viewer, "/", host=host.format(port=viewer.port) if host else "")
    assert status == 421
    assert "dmmia" not in text


def test_localhost_is_this_host(viewer: Viewer) -> None:
    assert ask(viewer, "/nothing", host=f"localhost:{viewer.port}")[0] == 404


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_may_not_fetch_it(viewer: Viewer, site: str) -> None:
    assert ask(viewer, "/", Sec_Fetch_Site=site)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(viewer: Viewer, method: str) -> None:
    assert ask(viewer, "/", method)[0] == 501


@pytest.mark.parametrize(
    ("path", "method", "others"),
    [
        ("/", "GET", {}),
        ("/run/dmmia-1", "GET", {}),
        ("/compare/attack", "GET", {}),
        ("/nothing", "GET", {}),
        ("/run/begun", "GET", {}),
        ("/", "HEAD", {}),
        ("/", "GET", {"host": "evil.example"}),
        ("/", "GET", {"Sec_Fetch_Site": "cross-site"}),
        ("/<script>alert(1)</script>", "<script>alert(1)</script>", {}),
        ("/", "PUT", {}),
    ],
)
def test_every_response_has_a_policy(viewer: Viewer, path: str, method: str, others: dict[str, str]) -> None:
    _, headers, text = ask(viewer, path, method, **others)
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    if headers["Content-Type"].startswith("text/html"):
        assert not text or "default-src 'none'" in check(text).all("meta")[1]["content"]
    else:
        assert headers["Content-Type"].startswith("text/plain")
        assert "default-src 'none'" in policy
        assert "alert" not in text


def test_a_head_has_no_body(viewer: Viewer) -> None:
    status, headers, text = ask(viewer, "/", "HEAD")
    assert status == 200
    assert int(headers["Content-Length"]) > 0
    assert text == ""


@pytest.mark.parametrize(
    "path",
    [
        "/run/link",
        "/run/../secret",
        "/run/%2e%2e/secret",
        "/run/..%2fsecret",
        "/run/dmmia-1/../../secret",
        "/run//etc/passwd",
        "/run/dmmia-1/run.json",
        "/run/dmmia-1%00",
        "/secret.txt",
        "//evil.example/run/dmmia-1x",
        "/run/",
        "/<script>alert(1)</script>",
    ],
)
def test_no_path_leads_out_of_the_folder(viewer: Viewer, path: str) -> None:
    status, _, html = ask(viewer, path)
    assert status == 404
    assert "alert(1)" not in check(html).scripts[0]
    assert "secret" not in html


def test_a_run_without_results_says_why(viewer: Viewer) -> None:
    for name, word in (("begun", "is not finished"), ("broken", "cannot")):
        status, _, html = ask(viewer, f"/run/{name}")
        assert status == 409
        assert word in " ".join(check(html).text)


def test_a_port_that_is_taken_and_a_folder_that_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(MibenchError, match="cannot listen on port"):
        mibench.view(tmp_path, port=other.getsockname()[1])
    with pytest.raises(MibenchError, match="is not a folder"):
        mibench.view(tmp_path / "nowhere")


def test_an_empty_folder_has_an_index(tmp_path: Path) -> None:
    with mibench.view(tmp_path) as viewer:
        status, html = viewer.answer("/")
    assert status == 200
    assert re.search("0 runs, 0 of them complete", html)


def test_ctrl_c_ends_the_command_and_is_no_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mibench", "view", str(tmp_path)]
    usual = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job ignores Ctrl-C, and so would it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=usual
    ) as process:
        try:
            assert process.stdout is not None
            assert re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints
