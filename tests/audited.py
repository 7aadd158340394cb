"""Colours as people, and a model that tells them apart, to audit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from workplace import enter

from mibench.cli import cli
from mibench.system.progress import Reporter

SIZE = 16
# Dark, so that a wrong normalisation confuses them; with channels turned ann is taken for cy, and both others for ann,
# which no order of classes explains.
COLOURS = {"ann": (30, 60, 75), "bob": (70, 40, 30), "cy": (75, 60, 35)}
TINY = [
    "--set", "judge_training.width=0.0625", "--set", "judge_training.size=32", "--set", "judge_training.epochs=2",
    "--set", "prior_training.width=0.0625", "--set", "prior_training.steps=2", "--set", "prior_training.batch_size=8",
    "--set", "protocol.samples=2", "--set", "protocol.metrics=[accuracy, knn-distance, feature-distance, controls]",
    "--device", "cpu",
]  # fmt: skip
GMI = ["--attack", "gmi", "--set", "attack.iterations=2", "--set", "attack.restarts=2"]
SEARCH = ["--set", "attack.pool_size=16", "--set", "attack.population=8", "--set", "attack.generations=2",
          "--set", "attack.candidates=2", "--set", "attack.selection_transforms=1"]  # fmt: skip
FLOOR = ["--set", "attack.pool_size=16", "--set", "attack.candidates=2", "--set", "attack.selection_transforms=1"]


class Colours(nn.Module):
    """The nearest mean colour of images in [0, 255]."""

    def __init__(self, people: int = 3) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(3, people)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(images))

    def know(self, colours: list[tuple[int, ...]]) -> Colours:
        means = torch.tensor(colours, dtype=torch.float32)
        self.head.weight.data, self.head.bias.data = 0.02 * means, -0.01 * means.square().sum(dim=1)
        return self


def paint(folder: Path, colours: Mapping[str, tuple[int, ...]], images: int) -> None:
    for number, (name, colour) in enumerate(colours.items()):
        generator = np.random.default_rng(number)
        (folder / name).mkdir(parents=True)
        for take in range(images):
            noise = generator.normal(0, 12, size=(SIZE, SIZE, 3))
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{take:02d}.png")


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``people``, ``strangers``, ``own_colours.py`` and its weights, as working directory."""
    folder = tmp_path / "work"
    paint(folder / "people", COLOURS, 8)
    paint(folder / "strangers", {f"s{n}": (60 * n, 120, 250 - 60 * n) for n in range(4)}, 5)
    (folder / "own_colours.py").write_text(
        "from torch import nn\n"
        "def build(people=3):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, people))\n"
    )
    head = Colours().know(list(COLOURS.values())).head
    save_file({"2.weight": head.weight.data, "2.bias": head.bias.data}, folder / "w.safetensors")
    enter(folder, monkeypatch)
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    sys.modules.pop("own_colours", None)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)])


def model(*more: str) -> list[str]:
    return [
        "--model", "own_colours:build", "--weights", "w.safetensors", "--data", "people", "--public", "strangers",
        "--size", str(SIZE), "--range", "0,255", *more,
    ]  # fmt: skip


def script(network: nn.Module, path: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network.eval(), torch.rand(2, 3, SIZE, SIZE)).save(path)


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Pixels(nn.Module):
    """A model of images that were normalised by mean and std, and turned to BGR; it undoes that itself."""

    def __init__(
        self, colours: list[tuple[int, ...]], mean: list[float], std: list[float], *, bgr: bool = False
    ) -> None:
        super().__init__()
        self.inner = Colours(len(colours)).know(colours)
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self.bgr = bgr

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.flip(1) if self.bgr else images
        logits = self.inner((images * self.std + self.mean) * 255)
        return logits, logits
