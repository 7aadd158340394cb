"""One file over HTTP: resumed where it stopped, tried again when a server stumbles, nothing else taken for it."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any

from mibench.downloads.partial_file import CHUNK, PartialFile
from mibench.errors import MibenchError
from mibench.system import file_type
from mibench.system.progress import Reporter
from mibench.version import __version__

from .content_check import Kind, complaint

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # without progress in between
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change


class NotServed(MibenchError):
    """This address does not give the file: it answers with something else, or not at all after several attempts."""


class _StumbledError(Exception):
    """A failure that another try may cure."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds the server asked for


class _RestartError(Exception):
    """What has come belongs to another version of the file: begin again."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, never from https to anything weaker."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        check_redirect(req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]

    def http_error_302(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message) -> Any:
        location = headers.get("location") or headers.get("uri")
        if location:  # before the library's own check, whose message names neither cause nor cure
            check_redirect(req.full_url, urllib.parse.urljoin(req.full_url, location))
        return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def check_redirect(old: str, new: str) -> None:
    """Refuse an address of another kind than was asked.

    Raises:
        NotServed: the new address is neither http nor https, or http after https.
    """
    before, after = urllib.parse.urlsplit(old).scheme, urllib.parse.urlsplit(new).scheme
    if after not in ("http", "https") or (before == "https" and after != "https"):
        raise NotServed(f"it sends on from {before} to {after or 'nowhere'}, which is refused as unsafe")


def host_of(url: str) -> str:
    """The server of an address, for messages."""
    return urllib.parse.urlsplit(url).netloc


def _opener() -> urllib.request.OpenerDirector:
    """Only what a download needs: the default opener would follow ftp, file and data addresses as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def pause(seconds: float) -> None:
    """Wait between two attempts."""
    time.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How one file is brought.

    Attributes:
        kind: what its first bytes must say.
        size: its bytes, where they are known beforehand.
        hash_known: whether a hash decides in the end: then a part may be continued though the server marks no version.
        room: called with the bytes still to come, before they come; raises when the disk has no room.
        reporter: hears of progress.
    """

    kind: Kind
    size: int | None
    hash_known: bool
    room: Callable[[int], None]
    reporter: Reporter

    def bring(self, url: str, part: PartialFile) -> None:
        """Fill ``part`` with the whole file, in as many attempts as it takes.

        Raises:
            NotServed: the answer is not the file, or :data:`ATTEMPTS` attempts in a row brought no byte.
            MibenchError: the disk is full.
        """
        failures, restarted = 0, False
        while True:
            before = part.size
            try:
                self._attempt(url, part)
                return
            except _RestartError as error:
                if restarted:
                    raise NotServed(f"{error}, twice") from error
                restarted = True
                part.restart()
                self.reporter.say(f"beginning again: {error}")
            except _StumbledError as error:
                failures = 1 if part.size > before else failures + 1
                if failures >= ATTEMPTS:
                    raise NotServed(f"{error} ({ATTEMPTS} attempts)") from error
                wait = min(max(error.wait, 2.0 ** (failures - 1)), LONGEST_WAIT)
                self.reporter.say(f"{error}; trying again in {wait:.0f} s")
                pause(wait)

    def _attempt(self, url: str, part: PartialFile) -> None:
        memo = part.memo() if part.size else {}
        mark = memo.get("mark")
        if part.size and not (memo.get("url") == url and mark) and not self.hash_known:
            part.restart()  # nothing would tell a continuation of this file from one of another
        request = urllib.request.Request(
            url, headers={"User-Agent": f"mibench/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*"}
        )
        if part.size:
            request.add_header("Range", f"bytes={part.size}-")
            if mark and memo.get("url") == url:
                request.add_header("If-Range", mark)
        try:
            with _opener().open(request, timeout=TIMEOUT) as response:
                self._receive(url, response, part)
        except urllib.error.HTTPError as error:
            with error:
                self._answer(error, part)
        except urllib.error.URLError as error:
            raise _connection(error.reason) from error
        except (http.client.HTTPException, OSError) as error:
            raise _connection(error) from error

    def _answer(self, error: urllib.error.HTTPError, part: PartialFile) -> None:
        """An error status: whole already, begin again, try again, or never."""
        if error.code == 416:
            content_range = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
            if content_range and int(content_range[1]) == part.size and self.size in (None, part.size):
                return
            raise _RestartError("the server's file is shorter than the part here")
        if error.code in TRANSIENT:
            raise _StumbledError(f"the server answers {error.code} {error.reason}", _retry_after(error.headers))
        try:
            page = error.read(file_type.PAGE)
        except (OSError, http.client.HTTPException):
            page = b""
        told = file_type.page_reason(page)
        what = "" if told == file_type.PLAIN_PAGE else f", {told}"
        raise NotServed(f"the server answers {error.code} {' '.join(str(error.reason).split())}{what}")

    def _receive(self, url: str, response: http.client.HTTPResponse, part: PartialFile) -> None:
        headers = response.headers
        total = self._begin(response, part)
        if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise NotServed(f"the server packs the file as {headers['Content-Encoding']} although it was asked not to")
        if self.size is not None and total not in (None, self.size):
            raise NotServed(f"the server offers {total} bytes, the file has {self.size}")
        content_type = headers.get("Content-Type", "")
        first = response.read(file_type.HEAD)
        if file_type.is_page(first if not part.size else b"", content_type):
            raise NotServed(file_type.page_reason(first + response.read(file_type.PAGE)))
        if total is not None and len(first) < min(file_type.HEAD, total - part.size):
            raise _StumbledError(f"the connection broke after {part.size + len(first)} of {total} bytes")
        if not part.size and (problem := complaint(first, self.kind)) is not None:
            raise NotServed(f"the server sent {problem}")
        expected = self.size if total is None else total
        if expected is not None:
            self.room(expected - part.size)
        part.describe(url=url, mark=_mark(headers), total=total)
        began, begun = time.monotonic(), part.size
        chunk = first
        while chunk:
            part.write(chunk)
            seconds = time.monotonic() - began
            speed = f"{(part.size - begun) / 1e6 / seconds:.1f} MB/s" if seconds > 1 else ""
            if expected is not None:
                self.reporter.update(part.size, expected, speed)
                if part.size > expected:  # an answer without a length can go on for ever
                    part.restart()
                    raise NotServed(f"the server sends more than the {expected} bytes of the file")
            chunk = response.read(CHUNK)
        if expected is not None and part.size < expected:
            raise _StumbledError(f"the connection broke after {part.size} of {expected} bytes")

    def _begin(self, response: http.client.HTTPResponse, part: PartialFile) -> int | None:
        """Where the answer begins; returns the bytes of the whole file, or None when the server does not say."""
        length = response.headers.get("Content-Length", "")
        announced = int(length) if length.isdigit() else None
        if response.status == 206:
            content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
            if not part.size or content_range is None or int(content_range[1]) != part.size:
                raise _RestartError("the server answers with another piece than was asked for")
            if content_range[2] != "*":
                return int(content_range[2])
            return None if announced is None else part.size + announced
        if response.status != 200:
            raise NotServed(f"the server answers {response.status} {response.reason}")
        if part.size:
            self.reporter.say("the server does not continue downloads, or its file has changed: beginning again")
            part.restart()
        return announced


def _mark(headers: Message) -> str | None:
    """What ``If-Range`` may be given: a strong entity tag, else the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _retry_after(headers: Message) -> float:
    """Seconds that a server asks to wait; 0 when it asks for none."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _connection(reason: object) -> Exception:
    """A failure below HTTP: a certificate that does not fit stays so, anything else may pass."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return NotServed(f"the server's certificate is not accepted: {reason.verify_message}")
    if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
        return NotServed("no such server is known here; is there a network?")
    if isinstance(reason, TimeoutError):
        return _StumbledError("the server does not answer in time")
    cause = reason.strerror if isinstance(reason, OSError) else None
    text = cause or str(reason) or type(reason).__name__
    return _StumbledError(f"no connection: {' '.join(str(text).split())}")
