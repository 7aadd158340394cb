"""``mibench view``: the pages of a folder of runs over HTTP, for a browser on this machine and for nothing else.

The server listens on 127.0.0.1 and answers ``GET`` and ``HEAD``. What it refuses, and why:

=========================== =====================================================================================
another ``Host``            a page of somebody else's whose name was made to mean 127.0.0.1 (DNS rebinding)
a ``Sec-Fetch-Site`` that   another page that embeds or fetches this one
is not this one
any path that is not listed there is no way from a path to a file: it is looked up among the runs below the folder
=========================== =====================================================================================
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import cast
from urllib.parse import unquote, urlsplit

from mibench import registry
from mibench.errors import MibenchError
from mibench.results import ComparedBy, IndexFunction, LabelledImages, PageFunction, StoredRun

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",  # a page adds its own
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PLAIN_TEXT = {
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
COMPARISONS: Mapping[str, ComparedBy | None] = {
    "/compare": None,
    "/compare/attack": "attack",
    "/compare/defence": "defence",
}


class Viewer:
    """A server of the pages of a folder, listening from the start; a context manager that closes it.

    Args:
        folder: of run directories, at any depth.
        port: 0: a free one.
        private: gives pages private images; None: they are left out.
        show_faces: show faces although the people may be real.

    Attributes:
        url: where the index is.

    Raises:
        MibenchError: no folder, or a port that is taken.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        private: Callable[[StoredRun, Sequence[int]], LabelledImages] | None = None,
        show_faces: bool = False,
    ) -> None:
        if not folder.is_dir():
            raise MibenchError(f"{folder} is not a folder", cure="name a folder of run directories")
        self.folder = folder
        self.private, self.show_faces = private, show_faces
        self._drawing = threading.Lock()  # figures share the settings of the process
        try:
            self._server = _Server((ADDRESS, port), _Handler)
        except OSError as error:
            raise MibenchError(
                f"cannot listen on port {port}: {error.strerror}", cure="choose another with --port, or leave it out"
            ) from error
        self._server.viewer = self
        self.port = int(self._server.server_address[1])
        self.url = f"http://{ADDRESS}:{self.port}/"

    def runs(self) -> dict[str, StoredRun]:
        """Name -> run of everything below the folder; links to other folders are not followed."""
        found = {}
        for parent, folders, files in os.walk(self.folder, followlinks=False):
            folders.sort()
            file = Path(parent) / "run.json"
            if "run.json" in files and not file.is_symlink():
                name = Path(parent).relative_to(self.folder).as_posix()
                found["this" if name == "." else name] = StoredRun(Path(parent))
        return found

    def answer(self, path: str) -> tuple[HTTPStatus, str]:
        """Status and HTML of a path such as ``/`` or ``/run/NAME``."""
        with self._drawing:
            return self._answer(path)

    def _answer(self, path: str) -> tuple[HTTPStatus, str]:
        index: IndexFunction = registry.load("page", "index")
        pages: PageFunction = registry.load("page", "runs")
        try:
            if path == "/":
                return HTTPStatus.OK, index(self.runs(), self.folder.resolve().name or "this folder")
            if path in COMPARISONS:
                return HTTPStatus.OK, pages(
                    self._complete(), by=COMPARISONS[path], private=self.private, show_faces=self.show_faces
                )
            name = unquote(path.removeprefix("/run/"), errors="surrogateescape")
            run = self.runs().get(name) if path.startswith("/run/") else None
            if run is None:
                return HTTPStatus.NOT_FOUND, _problem(MibenchError("there is no such page"))
            return HTTPStatus.OK, pages(run, private=self.private, show_faces=self.show_faces)
        except MibenchError as error:
            return HTTPStatus.CONFLICT, _problem(error)

    def _complete(self) -> list[StoredRun]:
        complete = [run for run in self.runs().values() if _is_complete(run)]
        if len(complete) < 2:
            raise MibenchError("there are no two complete runs to compare")
        return complete

    def serve_forever(self) -> None:
        """Answer until :meth:`close` is called from another thread, or Ctrl-C."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown_if_serving()
        self._server.server_close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_complete(run: StoredRun) -> bool:
    try:
        return run.status == "complete"
    except MibenchError:  # the index says why
        return False


def _problem(error: MibenchError) -> str:
    return cast(str, registry.load("page", "problem")(error))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    viewer: Viewer
    serving = False

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        self.serving = True
        try:
            super().serve_forever(poll_interval)
        finally:
            self.serving = False

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        """A browser that goes away in the middle of a page is no error; everything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def shutdown_if_serving(self) -> None:
        if self.serving:  # else there is no loop that could end, and waiting for it would last for ever
            self.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "mibench", ""
    timeout = 30  # seconds that a client may be silent

    def do_GET(self) -> None:
        """Answer with a page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer with the head of a page."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        viewer = cast(_Server, self.server).viewer
        if self.headers.get_all("Host", []) not in ([f"{name}:{viewer.port}"] for name in NAMES):
            self._send(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"This is {viewer.url} and answers to no other name.\n",
                body,
                plain=True,
            )
            return
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._send(HTTPStatus.FORBIDDEN, "Not for other pages.\n", body, plain=True)
            return
        status, page = viewer.answer(urlsplit(self.path).path)
        self._send(status, page, body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that is none, or of another method, under the same headers as everything else."""
        status = HTTPStatus(code)
        self._send(status, f"{status.phrase}\n", body=self.command != "HEAD", plain=True)

    def _send(self, status: HTTPStatus, text: str, body: bool, *, plain: bool = False) -> None:
        content = text.encode("utf-8", "replace")
        of_plain_text = PLAIN_TEXT if plain else {}
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, of_plain_text.get(name, value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a request is no event."""
