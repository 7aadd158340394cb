"""A web server on this machine that answers by script: properly, half, late, wrongly, or with a page."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mibench.cli import cli
from mibench.downloads import catalogue as known
from mibench.downloads import http as transport
from mibench.system import file_type

CONTENT = file_type.TORCH_LEGACY + bytes(range(256)) * 4000  # about a megabyte, several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the next scripted answer; the last one stays."""

    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        script = self.server.script
        (script.pop(0) if len(script) > 1 else script[0])(self)

    def log_message(self, *_: Any) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    script: list[Answer]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of these tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/net-{SHA256[:8]}.pth"


def whole(content: bytes = CONTENT, *, etag: str | None = '"one"', ranges: bool = True, **headers: object) -> Answer:
    """A proper server: ranges, and If-Range by entity tag."""

    def answer(handler: Handler) -> None:
        extra = {"ETag": etag} if etag else {}
        wanted = handler.headers.get("Range")
        fresh = handler.headers.get("If-Range") in (None, etag)
        if wanted and ranges and fresh:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
                return
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.head(206, Content_Range=span, Content_Length=len(content) - start, **extra, **headers)
            handler.wfile.write(content[start:])
            return
        handler.head(200, **({"Content_Length": len(content)} | extra | headers))
        handler.wfile.write(content)

    return answer


def broken(after: int, *, etag: str | None = '"one"', content: bytes = CONTENT) -> Answer:
    """Announces everything, hangs up after some bytes; continues a range likewise."""

    def answer(handler: Handler) -> None:
        extra = {"ETag": etag} if etag else {}
        handler.head(200, Content_Length=len(content), **extra)
        handler.wfile.write(content[:after])

    return answer


def status(code: int, body: bytes = b"", **headers: object) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(code, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


def page(text: str, code: int = 200) -> Answer:
    return status(code, text.encode(), Content_Type="text/html; charset=utf-8")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")  # whoever runs the tests may go through one
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
    monkeypatch.setattr(transport, "pause", found.append)
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


DOWNLOADED = f"assets/toys/net-{SHA256[:8]}.pth"
QUOTA = "<html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users</body></html>"
