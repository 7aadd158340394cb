"""What figures for papers have in common: widths of columns, size of text, vectors whose bytes repeat."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.api import MetricInfo
from mibench.results import atomic_write

from .style import FONT, inert

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"one-column": 3.35, "two-columns": 6.9}  # inches: the columns of the usual two-column styles
TEXT = 7  # points, as in a caption
MARK = 18  # area of a marker in square points
_SETTINGS: dict[Any, Any] = {
    "pdf.fonttype": 42,  # outlines that can be searched and edited; publishers refuse type 3
    "svg.hashsalt": "mibench",
    "svg.fonttype": "path",
    "font.family": FONT,
    "font.size": TEXT,
    "axes.unicode_minus": True,
}
_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def write_vectors(draws: Mapping[str, Callable[[float], Figure]], folder: Path) -> list[Path]:
    """Write ``NAME-one-column`` and ``NAME-two-columns`` of each figure as PDF and SVG.

    Args:
        draws: name -> what draws the figure for a width in inches.
        folder: where to write.

    Raises:
        MibenchError: the folder cannot be written.
    """
    from matplotlib import rc_context

    files = []
    for name, draw in draws.items():
        for columns, width in WIDTHS.items():
            with rc_context(_SETTINGS):
                fig = inert(draw(width))
                for ending, metadata in _METADATA.items():
                    content = io.BytesIO()
                    fig.savefig(content, format=ending, metadata=metadata)
                    file = folder / f"{name}-{columns}.{ending}"
                    atomic_write(file, content.getvalue(), sweep=True)
                    files.append(file)
    return files


def metric_name(info: MetricInfo) -> str:
    """A metric beside an axis, with its unit."""
    return f"{info.heading} (%)" if info.percent and "%" not in info.heading else info.heading


def percents(axis: Any, info: MetricInfo) -> None:
    """Shares as whole percents."""
    if info.percent:
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
