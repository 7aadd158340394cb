"""What every page has to be: well-formed, navigable, self-contained."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

from mibench.reports.page.environment import TEMPLATES

VOID = {"meta", "img", "input", "br", "link", "hr"}
SVG_EMPTY = {"path", "use", "rect", "stop"}

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "../../../etc/passwd",
    '=HYPERLINK("http://evil.example","x")',
    "\u202eevil\u2066",
    "</svg></style></script>$x_1$ {{ 7 * 7 }}\x00\x1b[2J",
)


class Page(HTMLParser):
    """A page, parsed; ``problems`` says what is wrong with its form."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.open: list[str] = []
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        if self.open:
            self.problems.append(f"not closed: {self.open}")

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if len({name for name, _ in attributes}) < len(attributes):
            self.problems.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-3:]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def check(html: str) -> Page:
    """Every rule that holds for every page; returns the page for more."""
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert not page.problems
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("h1", "main", "header", "title")] == [1, 1, 1, len(page.all("svg")) + 1]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (name, value)
            assert "://" not in value or name in ("data-value", "alt"), (name, value)
            if name in ("href", "src", "action", "xlink:href", "srcset", "poster", "data"):
                assert value.startswith(("#", "/", "data:image/png;base64,")), value
            if name in ("aria-labelledby", "for"):
                assert set(value.split()) <= set(ids)
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        for reference in re.findall(r"url\(([^)]*)\)", attributes.get("style", "") + attributes.get("clip-path", "")):
            assert reference.startswith("#")
            assert reference[1:] in ids
    for image in page.all("img"):
        assert image["alt"].strip()
        assert image["src"].startswith("data:image/png;base64,")
    for head in page.all("th"):
        assert head["scope"] in ("col", "row", "colgroup")
    for drawing in page.all("svg"):
        assert drawing["role"] == "img"
        assert drawing["aria-labelledby"]
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    assert len(page.scripts) == 1
    assert not page.all("link", "iframe", "object", "embed", "base", "form")
    assert "@import" not in html
    return page


def assert_inert(html: str) -> None:
    """Nothing that came from a file has become more than text."""
    page = check(html)
    assert page.scripts == [(TEMPLATES / "page.js").read_text()]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", html)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not any("javascript:" in attributes.get("href", "") for _, attributes in page.elements)
    assert "49" not in "".join(page.text).partition("</svg>")[2].partition("}}")[0]  # no template in a template
