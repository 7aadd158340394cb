"""Figures as SVG inside a page: with a title and a description, readable on dark ground, text that stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from mibench.reports.figures import style
from mibench.results import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
SCALE = 1.4  # pixels to a point where there is room: small text is 12 pixels high
FONTS = "'DejaVu Sans', Verdana, sans-serif"  # Verdana has the widths for which the figure was laid out

_COLOURS = {
    "#ffffff": "paper",
    "#000000": "ink",
    style.INK: "ink",
    style.GREY: "grey",
    style.PALE: "pale",
    style.BLUE: "blue",
    style.VERMILION: "vermilion",
    style.GREEN: "green",
    style.PURPLE: "purple",
    style.ORANGE: "orange",
    style.SKY: "sky",
}  # the page sets each for light and for dark
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def chart(draw: Callable[[], Figure], name: str, title: str, description: str) -> Markup:
    """The figure that ``draw`` makes, as an ``svg`` element.

    Args:
        draw: makes the figure.
        name: of the chart on its page; every identifier begins with it.
        title, description: for those who cannot see it.
    """
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.StringIO()
    with rc_context(
        {
            "svg.hashsalt": "mibench",
            "svg.fonttype": "none",
            "font.family": style.FONT,
            "path.simplify": True,
        }
    ):
        figure = style.inert(draw())
        FigureCanvasSVG(figure)
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(_NOT_IN_XML.sub("\ufffd", content.getvalue()))
    _tidy(root, name)
    wide = float(root.attrib["viewBox"].split()[2])
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {
        "role": "img",
        "class": "chart",
        "style": f"--wide: {wide * SCALE:.0f}px",
        "preserveAspectRatio": "xMinYMin meet",
        "aria-labelledby": f"{name}-title {name}-description",
    }
    for key, text in (("description", description), ("title", title)):
        element = ElementTree.Element("desc" if key == "description" else key, {"id": f"{name}-{key}"})
        element.text = printable(text)
        root.insert(0, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _tidy(root: ElementTree.Element, name: str) -> None:
    """Leave out what a page does not need; names without namespaces, identifiers that no other chart has."""
    for parent in root.iter():
        for child in list(parent):
            tag = child.tag.rpartition("}")[2]
            if tag in ("metadata", "style"):  # its rule for every element would hold for the whole page
                parent.remove(child)
    used: set[str] = set()
    for element in root.iter():
        used |= {reference for value in element.attrib.values() for reference in _REFERENCE.findall(value)}
        used |= {value[1:] for key, value in element.attrib.items() if key.endswith("href") and value.startswith("#")}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            else:
                value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
            element.attrib[key] = _themed(value) if key in ("style", "fill", "stroke") else value
        if element.tag in ("text", "tspan") and element.text:
            element.text = printable(element.text)


def _themed(css: str) -> str:
    """Colours as variables of the page, and fonts that machines without this one have."""
    for colour, variable in _COLOURS.items():
        css = re.sub(re.escape(colour), f"var(--{variable})", css, flags=re.IGNORECASE)
    return css.replace("'DejaVu Sans'", FONTS)
