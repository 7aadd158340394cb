"""mibench view in a real browser: the index is used by keyboard, links lead to pages, nothing else is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from browser import Browser, Tab, needs_chromium
from reported_runs import make_run

import mibench
from mibench.viewer import Viewer

pytestmark = needs_chromium

HEADS = """
  const table = document.querySelector("table[data-sortable]");
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const shown = (index) => rows.map((row) => row.cells[index].dataset.value);
"""


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """Three runs, one of them of a name that has to be escaped in a link, behind a server that answers."""
    folder = tmp_path_factory.mktemp("browsed")
    make_run(folder / "dmmia-1", "dmmia", 0.12, identities=2, samples=2)
    make_run(folder / "ppa-1", "ppa", 0.3, identities=2, samples=2)
    make_run(folder / "a <b> & 'c' %2e#?", "ppa", 0.3, identities=2, samples=2, seed=1)
    with mibench.view(folder) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
    thread.join(timeout=10)


def tab_to(tab: Tab, wanted: str) -> None:
    """Press Tab until the focus is on what a script's expression says."""
    for _ in range(60):
        tab.press("Tab", code=9)
        if tab.run(f"{HEADS} return document.activeElement === ({wanted});"):
            return
    raise AssertionError(f"Tab does not reach {wanted}")


def test_the_index_is_sorted_and_filtered_by_keyboard_alone(browser: Browser, viewer: Viewer) -> None:
    with browser.page(viewer.url) as tab:
        tab_to(tab, "document.querySelector('.filters input')")
        for letter in "dmmia":
            tab.press(letter, text=letter)
        assert tab.run(f"{HEADS} return shown(1);") == ["dmmia"]
        for _ in "dmmia":
            tab.press("Backspace", code=8)
        assert len(tab.run(f"{HEADS} return shown(1);")) == 3
        tab_to(tab, "heads[1].querySelector('button')")
        for state, order in (("ascending", ["dmmia", "ppa", "ppa"]), ("descending", ["ppa", "ppa", "dmmia"])):
            tab.press("Enter", text="\r", code=13)
            assert tab.run(f"{HEADS} return [heads[1].getAttribute('aria-sort'), shown(1)];") == [state, order]
        assert tab.complaints == []
        assert tab.requests == [viewer.url]


def test_every_link_leads_to_a_page_that_is_whole_and_asks_for_nothing(browser: Browser, viewer: Viewer) -> None:
    with browser.page(viewer.url) as tab:
        links = tab.run("return [...document.querySelectorAll('main a')].map((each) => each.href);")
    assert len(links) == 3 + 3  # of runs, and of comparisons
    for link in links:
        with browser.page(link) as tab:
            title, sortable = tab.run("return [document.title, document.querySelectorAll('th button').length];")
            assert title != "No page · mibench" or link.endswith("/defence"), link
            assert sortable > 0 or link.endswith("/defence"), link
            assert tab.complaints == [] or link.endswith("/defence"), link
            assert tab.requests == [link]


def test_the_index_is_accessible_as_it_is_served(browser: Browser, viewer: Viewer) -> None:
    axe = pytest.importorskip("axe_core_python")
    with browser.page(viewer.url, width=390, scheme="dark") as tab:
        tab.load((files(axe) / "axe.min.js").read_text(encoding="utf-8"))
        assert tab.run("return (await axe.run()).violations.map((rule) => rule.id);") == []


def test_a_page_of_the_viewer_cannot_be_framed(browser: Browser, viewer: Viewer, tmp_path: Path) -> None:
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe src="{viewer.url}"></iframe>', encoding="utf-8")
    with browser.page(outer) as tab:
        assert any("frame" in line.lower() or "403" in line for line in tab.complaints)
        assert tab.run("return document.querySelector('iframe').contentDocument;") is None
