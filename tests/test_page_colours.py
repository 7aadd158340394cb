"""Colours of pages: text and marks can be told from what they stand on."""

from __future__ import annotations

import re
from pathlib import Path

import mibench.reports.page

TEMPLATES = Path(mibench.reports.page.__file__).parent / "templates"


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_have_contrast_in_light_in_dark_and_on_paper() -> None:
    css = (TEMPLATES / "page.css").read_text()
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    assert len(schemes) == 3
    for colours in schemes:
        for ground in ("paper", "panel"):
            for text in ("ink", "grey", "link"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in ("blue", "vermilion", "green", "purple", "orange", "sky"):
            assert contrast(colours[mark], colours["paper"]) >= 3, mark
