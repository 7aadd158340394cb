"""Image files of smooth noise, each another one, and a pixel cache of its own for every test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mibench.data.images import Picture


def noise(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write(folder: Path, count: int, width: int = 40, height: int = 48) -> list[Picture]:
    folder.mkdir(exist_ok=True)
    pictures = []
    for number in range(count):
        noise(number, width, height).save(folder / f"{number}.png")
        pictures.append(Picture(folder / f"{number}.png"))
    return pictures


@pytest.fixture
def own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel cache of its own, also where whoever runs the tests does without one."""
    monkeypatch.delenv("MIBENCH_CACHE", raising=False)
