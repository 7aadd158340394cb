"""Templates, and what makes a page safe to open: everything that comes from files is escaped, nothing is requested."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.results import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def content_security_policy() -> str:
    """Nothing may be loaded: images and styles are those of the page, and the one script is known by its hash.

    Charts set their colours in ``style`` attributes, which no hash covers; without any source to load from, a style can
    do no more than look wrong.
    """
    digest = base64.b64encode(hashlib.sha256(_text("page.js").encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def page(template: str, content: Mapping[str, object]) -> str:
    """A template of this folder as HTML, with style sheet and script inside."""
    from markupsafe import Markup

    own = {
        "policy": content_security_policy(),
        "style": Markup(_text("page.css")),
        "script": Markup(_text("page.js")),
    }
    return _environment().get_template(template).render({**own, **content})


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _plain(value: object) -> object:
    """Marks that turn the direction of writing, and other characters that are not seen, become visible."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
