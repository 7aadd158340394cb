"""How wide text is when LaTeX sets it in Computer Modern: tables are laid out before LaTeX sees them."""

from __future__ import annotations

import re

# Plain article is the narrowest of the usual two-column styles: 229 pt a column, 469 pt a page (CVPR 237 and 497, IEEE
# 252 and 516), so what fits there fits everywhere.
ONE_COLUMN, TWO_COLUMNS = 229.0, 469.0
SIZES = {"footnotesize": 8.0, "scriptsize": 7.0, "tiny": 5.0}  # in points, of a 10 pt document
_OPTICAL = {8.0: 1.063, 7.0: 1.139, 5.0: 1.362}  # small sizes are drawn wider: cmr8, cmr7, cmr5 against cmr10
_BOLD = 1.15
_CLASSES = (  # widths of cmr10 in em, rounded up
    ("ijl.,:;'!|·", 0.31),
    (" ()[]-ft/", 0.39),
    ("rscz<>†", 0.45),
    ("aegovxyk0123456789?–_", 0.53),
    ("bdhnpquJ", 0.56),
    ("IELFPSZBTACRVXYU", 0.76),
    ("DGKNHOQwM&×%↑↓−=+÷±#", 0.92),
    ("Wm@", 1.03),
)
_EM = {letter: em for letters, em in _CLASSES for letter in letters}
_UNKNOWN = 0.8


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Points that a line of text takes, before escaping; rather too much than too little."""
    em = sum(_EM.get(letter, _UNKNOWN) for letter in text)
    return em * size * _OPTICAL[size] * (_BOLD if bold else 1.0)


def wrapped_width(text: str, size: float, limit: float, *, bold: bool = False) -> float:
    """The same, where lines may be broken at spaces beyond ``limit``: never less than the longest word."""
    whole = text_width(text, size, bold=bold)
    words = re.split(r"\s+", text)
    return min(whole, max([limit, *(text_width(word, size, bold=bold) for word in words)]))
