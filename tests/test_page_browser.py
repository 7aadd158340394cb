"""Pages in a real browser: the script runs, sorts and filters, nothing is requested, nothing is complained about, and
axe-core's rules of accessibility hold in both schemes of colours."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread

import pytest
from browser import Browser, Scheme, needs_chromium
from reported_runs import make_run

from mibench.reports.page.page import runs_index, runs_page
from mibench.results import StoredRun, open_run

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    made = make_run(tmp_path_factory.mktemp("browsed") / "run", "dmmia", 0.25, samples=3)
    record = json.loads((made.path / "run.json").read_text())
    record["settings"] = {"attack.steps": {"value": 3, "origin": "preset demo", "by_user": False}}
    (made.path / "run.json").write_text(json.dumps(record))
    return open_run(made.path)


@pytest.fixture(scope="module")
def pages(run: StoredRun, suite: Path, defended: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    texts = {
        "run": runs_page(run),
        "attacks": runs_page(suite),
        "defences": runs_page(defended),
        "index": runs_index({"one": run, "two": open_run(run.path)}, "runs"),
        "hidden": runs_page(hidden_control(run, folder / "hidden")),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


def hidden_control(run: StoredRun, folder: Path) -> StoredRun:
    """A run against real people, of a control that saw private images: everything that such pages say otherwise."""
    shutil.copytree(run.path, folder)
    record = json.loads((folder / "run.json").read_text())
    record["spec"]["dataset"] = "celeba"
    record["sees_private"] = True
    (folder / "run.json").write_text(json.dumps(record))
    return open_run(folder)


KINDS = ("run", "attacks", "defences", "index", "hidden")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_for_nothing_and_nothing_is_complained_about(
    browser: Browser, pages: dict[str, Path], kind: str
) -> None:
    with browser.page(pages[kind]) as tab:
        assert tab.run("return document.querySelectorAll('th button').length") > 0  # the script ran
        assert tab.complaints == []
        assert tab.requests == [pages[kind].as_uri()]


# ---------------------------------------------------------------- tables


SHOWN = """
  const table = document.getElementById("people-table");
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const column = (index) =>
    [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[index].dataset.value);
  const where = heads.findIndex((head) => head.textContent.startsWith("KNN"));
"""


def test_tables_are_sorted_and_filtered(browser: Browser, pages: dict[str, Path]) -> None:
    with browser.page(pages["run"]) as tab:
        read = f"{SHOWN} return [column(where).map(Number), heads[where].getAttribute('aria-sort')];"
        tab.run(f"{SHOWN} heads[where].querySelector('button').click();")
        down, state = tab.run(read)
        assert (down, state) == (sorted(down, reverse=True), "descending")
        tab.run(f"{SHOWN} heads[where].querySelector('button').focus();")
        tab.press("Enter", text="\r", code=13)  # by keyboard as well
        assert tab.run(read) == [down[::-1], "ascending"]
        assert len(down) == 6
        choices, chosen, count = tab.run(
            f"""{SHOWN}
            const select = document.querySelector(".filters select");
            select.selectedIndex = 1;
            select.dispatchEvent(new Event("change"));
            return [[...select.options].map((each) => each.text), [...new Set(column(2))],
              document.querySelector(".filters output").textContent];
            """
        )
        assert choices[0] == "all"
        assert chosen == [choices[1]]
        assert re.fullmatch(r"\d of 6 rows", count)
        tab.run("document.querySelector('.filters input').focus();")
        for letter in "xyz":
            tab.press(letter, text=letter)
        assert tab.run(f"{SHOWN} return column(0);") == []


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_fits_into_windows_and_on_paper(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    with browser.page(pages[kind], scheme="dark") as tab:  # paper is white whatever a person prefers
        for width in (390, 1280):
            tab.resize(width)
            inner, outer = tab.run(
                "const page = document.documentElement; return [page.scrollWidth, page.clientWidth];"
            )
            assert inner <= outer <= width
        tab.resize(718)  # A4 without margins of a centimetre
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        tab.call("Emulation.setEmulatedMedia", media="print", features=dark)
        cut = tab.run(
            """
            for (const each of document.querySelectorAll("details")) each.open = true;
            return [...document.querySelectorAll("table, svg, pre, img")]
              .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth)
              .map((each) => each.outerHTML.slice(0, 80));
            """
        )
        assert cut == []
        controls = tab.run(
            "return [...document.querySelectorAll('thead button')].map((each) => getComputedStyle(each).display);"
        )
        assert set(controls) == {"contents"}  # Chromium leaves a control out of a heading that the next page repeats
        ground = tab.run("return getComputedStyle(document.body).backgroundColor;")
        assert ground == "rgb(255, 255, 255)"


def test_what_goes_on_beyond_the_edge_says_so(browser: Browser, pages: dict[str, Path]) -> None:
    marked = """
      const box = document.getElementById("people-table").parentElement;
      const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      await frame();
      const before = box.classList.contains("more");
      box.scrollLeft = box.scrollWidth;
      await frame();
      return [before, box.classList.contains("more")];
    """
    with browser.page(pages["run"], width=390) as tab:
        assert tab.run(marked) == [True, False]


def test_what_is_folded_is_printed(browser: Browser, pages: dict[str, Path]) -> None:
    with browser.page(pages["run"]) as tab:
        assert tab.run("return document.querySelector('details').open") is False
        assert tab.pdf().startswith(b"%PDF")
        assert tab.run("return document.querySelector('details').open") is True


# ---------------------------------------------------------------- accessibility


COLOURS = """
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const contrast = (colour) => (Math.max(light(colour), paper) + 0.05) / (Math.min(light(colour), paper) + 0.05);
"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_accessible(browser: Browser, pages: dict[str, Path], kind: str, width: int, scheme: Scheme) -> None:
    """Every rule of axe-core. What it cannot decide, the contrast of text in drawings, is measured here."""
    axe = pytest.importorskip("axe_core_python")
    with browser.page(pages[kind], width=width, scheme=scheme) as tab:
        dark = tab.run(f"{COLOURS} return paper < 0.2;")
        assert dark == (scheme == "dark")
        tab.load((files(axe) / "axe.min.js").read_text(encoding="utf-8"))
        broken, undecided, kept = tab.run(
            """
            for (const each of document.querySelectorAll("details")) each.open = true;
            const found = await axe.run({ resultTypes: ["violations", "incomplete", "passes"] });
            const brief = (rules) => rules.flatMap((rule) =>
              rule.nodes.map((node) => [rule.id, node.html.slice(0, 120), node.failureSummary]));
            return [brief(found.violations), brief(found.incomplete), found.passes.map((rule) => rule.id)];
            """
        )
        assert broken == []
        assert [each for each in undecided if not (each[0] == "color-contrast" and each[1].startswith("<text"))] == []
        assert {"color-contrast", "heading-order", "landmark-one-main", "label", "region"} <= set(kept)
        faint = tab.run(
            f"""{COLOURS}
            return [...document.querySelectorAll("svg text")]
              .map((each) => [each.textContent, contrast(getComputedStyle(each).fill)])
              .filter(([, ratio]) => ratio < 4.5);
            """
        )
        assert faint == []


@pytest.mark.parametrize("kind", ["run", "index", "attacks", "defences"])
def test_everything_that_can_be_used_is_reached_by_keyboard(
    browser: Browser, pages: dict[str, Path], kind: str
) -> None:
    with browser.page(pages[kind]) as tab:
        count = tab.run(
            """
            for (const each of document.querySelectorAll("details")) each.open = true;
            const used = [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")];
            used.forEach((each, number) => (each.dataset.number = number));
            return used.length;
            """
        )
        reached = []
        for _ in range(count):
            tab.press("Tab", code=9)
            reached.append(tab.run("return Number(document.activeElement.dataset.number);"))
        assert reached == list(range(count))


# ---------------------------------------------------------------- safety


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
    # a browser keeps connections that it does not use: one thread would wait for them for ever
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listener)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_policy_lets_nothing_out_even_if_something_were_injected(
    browser: Browser, run: StoredRun, tmp_path: Path, listener: str
) -> None:
    injected = (
        f'<img src="{listener}/image"><link rel="stylesheet" href="{listener}/style"><iframe src="{listener}/frame">'
        f'</iframe><script src="{listener}/script"></script><script>fetch("{listener}/fetch")</script>'
        f'<img src="data:," onerror="fetch(\'{listener}/handler\')"><div style="background:url({listener}/css)">x</div>'
    )
    file = tmp_path / "page.html"
    file.write_text(runs_page(run).replace("</main>", injected + "</main>"), encoding="utf-8")
    with browser.page(file) as tab:
        tab.run("await new Promise((done) => setTimeout(done, 300));")
        assert tab.complaints  # the browser says what it blocked
    assert _Listener.asked == []
    file.write_text(f'<img src="{listener}/image">', encoding="utf-8")
    with browser.page(file):
        pass
    assert _Listener.asked == ["/image"]  # the listener hears what is asked
