"""Pages in a real browser: the script runs, sorts and filters, nothing is requested, nothing is complained about.

Chromium writes out what has become of a page; a test's own script, which a copy of the page admits by its hash, does
what a person would do.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from reported_runs import make_run

from mibench.reports.page.page import runs_index, runs_page
from mibench.results import StoredRun, open_run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,  # a browser takes seconds to start
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return make_run(tmp_path_factory.mktemp("browsed") / "run", "dmmia", 0.25, samples=3)


def browse(file: Path, *options: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and the lines of the browser's console."""
    command = [str(CHROMIUM), "--headless=new", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--v=0"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium's sandbox refuses root, as in a container
    command += [f"--user-data-dir={file.parent / 'profile'}", *options, "--dump-dom", file.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


REPORTED = """
const found = (() => {{ {script} }})();
const pre = document.createElement("pre");
pre.id = "done";
pre.textContent = JSON.stringify(found);
document.body.append(pre);
"""


def driven(page: str, script: str) -> str:
    """The page with a further script, allowed by its hash, whose result stands in an element of its own."""
    script = REPORTED.format(script=script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("; script-src ", f"; script-src &#39;sha256-{digest}&#39; ")
    return page.replace("</body>", f"<script>{script}</script></body>")


def result(file: Path, page: str, script: str, *options: str) -> Any:
    file.write_text(driven(page, script), encoding="utf-8")
    document, complaints = browse(file, *options)
    assert not complaints
    text = re.search(r'<pre id="done">(.*?)</pre>', document, re.DOTALL)
    assert text is not None
    return json.loads(html.unescape(text[1]))


def test_tables_are_sorted_and_filtered(run: StoredRun, tmp_path: Path) -> None:
    script = """
      const table = document.getElementById("people-table");
      const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const column = (index) => shown().map((row) => row.cells[index].dataset.value);
      const heads = [...table.tHead.rows[0].cells];
      const where = heads.findIndex((head) => head.textContent.startsWith("KNN"));
      const button = heads[where].querySelector("button");
      button.click();
      const down = column(where).map(Number), state = heads[where].getAttribute("aria-sort");
      button.click();
      const up = column(where).map(Number), after = heads[where].getAttribute("aria-sort");
      const select = document.querySelector(".filters select"), field = document.querySelector(".filters input");
      const choices = [...select.options].map((option) => option.text);
      select.selectedIndex = 1;
      select.dispatchEvent(new Event("change"));
      const chosen = new Set(column(2)), count = document.querySelector(".filters output").textContent;
      field.value = "no such person";
      field.dispatchEvent(new Event("input"));
      return { down, up, state, after, choices, chosen: [...chosen], count, none: column(0) };
    """
    found = result(tmp_path / "page.html", runs_page(run), script)
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == found["down"][::-1]
    assert len(found["up"]) == 6
    assert (found["state"], found["after"]) == ("descending", "ascending")
    assert found["choices"][0] == "all"
    assert found["chosen"] == [found["choices"][1]]
    assert re.fullmatch(r"\d of 6 rows", found["count"])
    assert found["none"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_the_window(run: StoredRun, tmp_path: Path, width: int) -> None:
    script = f"""
      document.body.style.maxWidth = "{width}px"; // a window of Chromium is never narrower than 500 pixels
      const body = document.body;
      return [body.scrollWidth, body.clientWidth, document.querySelectorAll("svg.chart text").length];
    """
    inner, outer, texts = result(tmp_path / "page.html", runs_page(run), script, f"--window-size={width},900")
    assert inner <= outer <= width
    assert texts > 20


def test_everything_that_can_be_used_is_reached_by_keyboard_and_named(run: StoredRun, tmp_path: Path) -> None:
    script = """
      const used = [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")];
      return used.map((each) => {
        each.focus();
        const labelled = document.getElementById(each.getAttribute("aria-labelledby"));
        const said = [each.getAttribute("aria-label"), labelled?.textContent, each.labels?.[0]?.textContent];
        const name = said.find(Boolean) || each.textContent;
        return [each.tagName, name.trim(), document.activeElement === each];
      });
    """
    for number, page in enumerate((runs_page(run), runs_index({"one": run, "two": open_run(run.path)}, "runs"))):
        found = result(tmp_path / f"{number}.html", page, script)
        assert found
        assert all(name for _, name, _ in found), found
        closed = [tag for tag, _, focused in found if not focused]
        assert len(closed) <= 1  # the table inside the folded settings


class _Listener(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 (one list for the test)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[str]:
    _Listener.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), _Listener)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_policy_lets_nothing_out_even_if_something_were_injected(
    run: StoredRun, tmp_path: Path, listener: str
) -> None:
    injected = (
        f'<img src="{listener}/image"><link rel="stylesheet" href="{listener}/style"><iframe src="{listener}/frame">'
        f'</iframe><script src="{listener}/script"></script><script>fetch("{listener}/fetch")</script>'
        f'<img src="data:," onerror="fetch(\'{listener}/handler\')"><div style="background:url({listener}/css)">x</div>'
    )
    file = tmp_path / "page.html"
    file.write_text(runs_page(run).replace("</main>", injected + "</main>"), encoding="utf-8")
    _, complaints = browse(file)
    assert _Listener.asked == []
    assert complaints  # the browser says what it blocked
    file.write_text(f'<img src="{listener}/image">', encoding="utf-8")
    browse(file)
    assert _Listener.asked == ["/image"]  # the listener hears what is asked
