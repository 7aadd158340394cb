"""The documentation names what exists: every module, every environment variable, every link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.glob("*.md")))
FOLDERS = ("mibench", "attacks", "targets", "reports")
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout")


def sources() -> list[Path]:
    """Every Python file of the distribution, once: the links inside ``mibench/`` are not followed."""
    links = {path for path in (ROOT / "mibench").iterdir() if path.is_symlink()}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return [path for path in files if not links & set(path.parents)]


def listed_modules() -> set[str]:
    """``mibench/runs/plan.py`` and so on: the files that the page lists below the folder that stands before them."""
    modules, folder = set(), ""
    for block in re.findall(r"```\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            if named := re.match(r"([\w/]+/)", line):
                folder = named[1]
            elif named := re.match(r"  (\w+\.py) ", line):
                modules.add(folder + named[1])
    return modules


def test_the_architecture_page_lists_every_module() -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in sources()}
    listed = listed_modules()
    assert not listed - modules, "docs/architecture.md lists files that do not exist"
    missing = {name for name in modules - listed if not name.endswith("__init__.py")}
    assert not missing, "docs/architecture.md lacks these files: one line each"


def test_every_environment_variable_is_documented() -> None:
    page = (DOCS / "configuration.md").read_text()
    read = {name for path in sources() for name in re.findall(r"\"(MIBENCH_[A-Z_]+)\"", path.read_text())}
    assert {"MIBENCH_HOME", "MIBENCH_CACHE"} <= read
    assert not {name for name in read if f"`{name}`" not in page}


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if fragment and target.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, f"{page.name}: {link}"
