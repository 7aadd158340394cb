"""Figures without global state: colours that colour-blind readers can tell apart, readable sizes, repeatable files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.results import atomic_write, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Okabe and Ito's palette, the darker ones first.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY = "#E69F00", "#56B4E9"
RUN_COLOURS: tuple[str, ...] = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "osD^vP<"  # one more than colours: 42 pairs before one comes again
LINES: tuple[str, ...] = ("-", "--", ":", "-.")
INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
SMALL, NORMAL, LARGE = 8.5, 10, 12
DPI = 150

BESIDE = 0.6  # of the width, at most, for what stands beside a plot: a longer name would leave it no room
FONT = "DejaVu Sans"  # comes with matplotlib

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "mibench",
    "svg.fonttype": "path",
    "font.family": FONT,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, laid out when it is saved."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    fig.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    return fig


def tidy(axes: Axes) -> None:
    """House style of a plot: two spines, light grid behind the data, readable ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.grid(True, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=INK)


def write_centred(axes: Axes, text: str) -> None:
    """Put a sentence where a plot would be."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=NORMAL, color=GREY, wrap=True
    )


def heading(fig: Figure, title: str, subtitle: str) -> None:
    """A title and lines of context below it, flush left over the whole figure; the panels are kept clear of them."""
    height = float(fig.get_figheight())
    letters = max(30, int((fig.get_figwidth() - 0.2) * 72 / (0.56 * SMALL)))
    subtitle = "\n".join(wrapped for line in subtitle.split("\n") for wrapped in textwrap.wrap(line, letters))
    lines = subtitle.count("\n") + 1
    fig.text(0.012, 1 - 0.08 / height, title, ha="left", va="top", fontsize=LARGE, fontweight="bold", color=INK)
    fig.text(0.012, 1 - 0.34 / height, subtitle, ha="left", va="top", fontsize=SMALL, color=GREY, linespacing=1.3)
    taken = 0.42 + lines * SMALL * 1.35 / 72
    fig.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06, rect=(0, 0, 1, 1 - taken / height))


def inert(fig: Figure) -> Figure:
    """The figure with every text as it is written: names come from files.

    A name with two dollars is no formula; marks that turn the direction of writing, and letters that the font has not,
    are escaped. Numbers beside an axis stay as matplotlib sets them: powers of ten are formulas.
    """
    from matplotlib.legend import Legend
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    numbers: set[int] = set()
    labels: set[int] = {id(text) for legend in fig.findobj(Legend) for text in legend.get_texts()}
    for axis in (axis for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)):
        ticks = axis.get_ticklabels()
        if not isinstance(axis.get_major_locator(), FixedLocator):
            numbers |= {id(tick) for tick in (*ticks, *axis.get_ticklabels(minor=True))}
            continue
        labels |= {id(tick) for tick in ticks}
        shown = [drawable(tick.get_text(), _letters_across(fig, tick, BESIDE)) for tick in ticks]
        if shown != [tick.get_text() for tick in ticks]:
            axis.set_ticklabels(shown)
    for text in fig.findobj(Text):
        if isinstance(text, Text) and id(text) not in numbers:
            text.set_parse_math(False)
            most = _letters_across(fig, text, BESIDE if id(text) in labels else 1)
            text.set_text(drawable(text.get_text(), most))
    return fig


def drawable(text: str, most: int | None = None) -> str:
    """A text with what is not seen, and what the font has no letter for, escaped; lines of at most ``most`` letters."""
    known = _letters()
    lines = [
        "".join(
            letter if ord(letter) in known else letter.encode("unicode_escape").decode() for letter in printable(line)
        )
        for line in text.split("\n")
    ]
    return "\n".join(line if most is None or len(line) <= most else f"{line[: most - 1]}…" for line in lines)


def _letters_across(fig: Figure, text: Text, share: float) -> int:
    """How many letters of a text fit into a share of the figure's width."""
    return max(12, int(share * fig.get_figwidth() * 72 / (0.5 * float(text.get_fontsize()))))


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())


def save(fig: Figure, folder: Path, name: str) -> list[Path]:
    """Write PNG and SVG. Files of equal figures are equal: no date, fixed identifiers.

    Raises:
        MibenchError: the folder cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(inert(fig))
    files = []
    with rc_context(_SETTINGS):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            fig.savefig(content, format=ending, dpi=DPI, metadata=metadata)
            file = folder / f"{name}.{ending}"
            atomic_write(file, content.getvalue(), sweep=True)
            files.append(file)
    return files


def colours(count: int) -> Sequence[tuple[str, str]]:
    """``count`` pairs of colour and marker; both change, so that print without colour can be read too."""
    return [(RUN_COLOURS[i % len(RUN_COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(count)]
