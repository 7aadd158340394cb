"""Runs on disk of toy people that a judge can read, to report on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from untouched import untouched

from mibench.api import ClassifierOutput, ImageSpec
from mibench.data.split import Images, to_uint8
from mibench.metrics.extractors import JudgeExtractor
from mibench.metrics.identity import IdentityTruth
from mibench.metrics.scoring import Reconstructions, score
from mibench.results import StoredRun, open_run


def people(count: int) -> torch.Tensor:
    """Colours of skin, hair and background, eye spacing and mouth width of ``count`` toy people ``(count, 11)``."""
    return torch.rand(count, 11, generator=torch.Generator().manual_seed(4)) * 0.8 + 0.1


def draw(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Cartoon faces, uint8 ``(n, 3, size, size)``."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    skin, hair, back = (vectors[:, i : i + 3, None, None] for i in (0, 3, 6))
    gap, mouth = vectors[:, 9, None, None] * 0.5 + 0.1, vectors[:, 10, None, None] * 0.5
    images = back.expand(-1, -1, size, size).clone()
    images = torch.where(((x / 0.75) ** 2 + ((y + 0.1) / 0.9) ** 2 < 1)[None, None], hair, images)
    images = torch.where(((x / 0.6) ** 2 + ((y - 0.1) / 0.75) ** 2 < 1)[None, None], skin, images)
    eyes = ((x.abs() - gap) ** 2 + (y + 0.1) ** 2 < 0.012)[:, None]
    lips = ((x.abs() < mouth) & ((y - 0.5).abs() < 0.05))[:, None]
    return to_uint8(torch.where(eyes | lips, torch.tensor(0.1), images))


class Reader(nn.Module):
    """Reads colours off patches and compares them with everybody's."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("known", self.features(draw(vectors, 32).float() / 255))

    def features(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 6).flatten(1)

    def forward(self, images):
        features = self.features(images)
        return ClassifierOutput(features, -4 * torch.cdist(features, self.known).square())


CLASSES = 12


def private_images(identities: int, seed: int = 6) -> Images:
    labels = torch.arange(identities).repeat_interleave(6)
    vectors = people(CLASSES)[labels]
    vectors = vectors + 0.1 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    return Images(draw(vectors, 32), labels, tuple(f"p{int(label)}" for label in labels))


def make_run(
    folder: Path,
    attack: str,
    noise: float,
    *,
    identities: int = 6,
    samples: int = 6,
    seed: int = 0,
    curves: bool = True,
) -> StoredRun:
    """A run directory as the engine leaves it, with a judge that works on the toy people."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed + 17)
    labels = torch.arange(identities).repeat_interleave(samples + 2)
    drift = torch.randn(len(labels), 11, generator=generator) * noise
    images = draw((people(CLASSES)[labels] + drift).clamp(0, 1), 32)
    confidence = -drift.norm(dim=1) + 0.1 * torch.randn(len(labels), generator=generator)
    (folder / "units").mkdir(parents=True)
    units = []
    for number, rows in enumerate((labels < identities // 2, labels >= identities // 2)):
        steps = torch.arange(1, 41).float()
        start = torch.rand(int(rows.sum()) // (samples + 2), 1, generator=generator)
        logged = {
            "curve.L_ce": (5 + start) * torch.exp(-steps / 15) + 0.1,
            "curve.L_imr": 0.6 - 0.1 * start + 0 * steps,
            "curve.w_drift": start * steps / 40,
            "curve.realism": steps / 40 - 1,
        }
        tensors = {"images": images[rows], "labels": labels[rows], "confidence": confidence[rows]}
        if curves:
            tensors |= {name: curve.contiguous() for name, curve in logged.items()}
        facts = {"queries_forward": 100, "queries_backward": 50, "notes": []}
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            folder / "units" / f"{number:03d}.safetensors",
            metadata={"mibench": json.dumps(facts)},
        )
        (folder / "units" / f"{number:03d}.json").write_text(json.dumps({"seconds": 1.5}))
        units.append((number, images[rows], labels[rows], confidence[rows]))
    truth = IdentityTruth(
        private=people(CLASSES)[:, :3],
        foreign=torch.rand(100, 3, generator=torch.Generator().manual_seed(1)),
        regress=lambda shown: shown[:, :, 20, 16].float() / 255,
        regressor="identity@toy",
    )
    scores = score(
        Reconstructions.of(units),
        private=private_images(identities),
        judge=JudgeExtractor(Reader(people(CLASSES)), ImageSpec(32), name="reader@toy"),
        per_identity=samples,
        truth=truth,
        private_test=private_images(identities, seed=7),
        public=Images(draw(people(60)[20:], 32), torch.full((40,), -1), ("q",) * 40),
        inception_reason="FID needs weights",
        resamples=300,
    )
    scores.samples.to_csv(folder / "samples.csv", index=False, lineterminator="\n")
    (folder / "metrics.json").write_text(json.dumps(scores.as_json(), allow_nan=False))
    specification = {
        "attack": attack,
        "target": {"card": "vgg16@synthfaces", "architecture": "vgg16"},
        "dataset": "synthfaces",
        "protocol": {"name": "toy", "version": 2},
        "seed": seed,
    }
    (folder / "run.json").write_text(json.dumps({"status": "complete", "spec": specification}))
    (folder / "log.jsonl").write_text('{"event": "unit", "unit": 0}\n{"event": "un')
    return open_run(folder)


@pytest.fixture(scope="session")
def run_and_floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoredRun, StoredRun]]:
    """A run of an attack and its floor; shared, so tests do not write into them."""
    folder = tmp_path_factory.mktemp("runs")
    runs = make_run(folder / "dmmia-1", "dmmia", 0.12), make_run(folder / "floor-1", "floor", 0.35, curves=False)
    with untouched(folder):
        yield runs


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
