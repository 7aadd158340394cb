"""Whether a JSON file has the keys that a page of the documentation lists, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def documented(page: str, heading: str) -> set[str]:
    """The keys in the first column of the table below a heading: ``model.card``, ``reasons[].code``, ``params.*``."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def leaves(value: object, path: str = "") -> Iterator[str]:
    """Paths of everything that is no container; an empty one counts as if it held something."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
        if not value:
            yield f"{path}.*"
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, f"{path}[]")
        if not value:
            yield f"{path}[]"
    else:
        yield path


def check_keys(content: object, page: str, heading: str) -> None:
    """Assert that all that is written is documented and all that is documented is written."""
    keys = documented(page, heading)
    assert keys, f"{page} has no keys below {heading}"
    patterns = {key: re.compile(re.escape(key).replace(r"\*", ".+") + "$") for key in keys}
    written = set(leaves(content))
    unknown = {path for path in written if not any(pattern.match(path) for pattern in patterns.values())}
    unknown -= {path for path in unknown if path.endswith("[]") and any(key.startswith(path) for key in keys)}
    assert not unknown, f"docs/{page} does not list these"
    unwritten = {key for key, pattern in patterns.items() if not any(pattern.match(path) for path in written)}
    assert not unwritten, f"docs/{page} lists what is not written"
