"""A headless Chromium that tests drive: pages opened, scripts run in them, keys pressed, pictures and PDFs taken.

It is spoken to by DevTools' protocol over two pipes, so that neither a driver nor a port is needed. Scripts of a test
are run by DevTools and therefore whatever a page's Content-Security-Policy admits.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
PATIENCE = 300  # seconds for one answer: a busy machine starts a browser slowly

Scheme = Literal["light", "dark"]


class Browser:
    """A running Chromium, to be closed."""

    def __init__(self, profile: Path) -> None:
        for_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()

        def pipes() -> None:  # Chromium reads commands from descriptor 3 and answers on 4
            high = os.dup2(for_browser, 200), os.dup2(from_browser, 201)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [str(CHROMIUM), "--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium's sandbox refuses root, as in a container
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,  # everything that Python opened closes itself; 3 and 4 must not
            preexec_fn=pipes,
        )
        os.close(for_browser)
        os.close(from_browser)
        self._number, self._buffer = 0, b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What DevTools answers to a method."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._commands, content) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def events(self, session: str) -> list[dict[str, Any]]:
        """What was reported of a session so far."""
        return [event for event in self._events if event.get("sessionId") == session]

    def wait(self, session: str, method: str) -> None:
        """Until an event was reported."""
        while not any(event["method"] == method for event in self.events(session)):
            self._events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    @contextmanager
    def page(self, url: str | Path, *, width: int = 1280, height: int = 900, scheme: Scheme = "light") -> Iterator[Tab]:
        """A page in a window of this size in pixels, for somebody who prefers this scheme of colours."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        try:
            tab = Tab(self, session)
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            tab.resize(width, height)
            tab.call("Emulation.setFocusEmulationEnabled", enabled=True)  # or keys would go nowhere
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            tab.call("Page.navigate", url=url.resolve().as_uri() if isinstance(url, Path) else url)
            self.wait(session, "Page.loadEventFired")
            yield tab
        finally:
            self.call("Target.closeTarget", targetId=target)


class Tab:
    """An open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What DevTools answers to a method, asked of this page."""
        return self._browser.call(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """What the body of an (asynchronous) function returns, as JSON."""
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def load(self, script: str) -> None:
        """A script that defines something for those that are run later."""
        assert "exceptionDetails" not in self.call("Runtime.evaluate", expression=script)

    def resize(self, width: int, height: int = 900) -> None:
        """A window of this size in pixels."""
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)

    def press(self, key: str, *, text: str = "", code: int = 0) -> None:
        """A key, down and up, where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def picture(self, *, whole: bool = True) -> bytes:
        """A PNG of the whole page, or of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed, on A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        return base64.b64decode(printed["data"])

    @property
    def complaints(self) -> list[str]:
        """Lines of the console, and what the browser itself reported, such as what a policy kept from loading."""
        found = []
        for event in self._browser.events(self._session):
            about = event["params"]
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(" ".join(str(each.get("value")) for each in about["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(about["exceptionDetails"]["text"])
            elif event["method"] == "Log.entryAdded":
                found.append(about["entry"]["text"])
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, the page itself first; images inside the page are none."""
        asked = [
            str(event["params"]["request"]["url"])
            for event in self._browser.events(self._session)
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of a process."""
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running
