"""Five thousand classes, from folders of pictures to a comparison: every stage runs, and the numbers make sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toyworld.build import write_network
from toyworld.networks import prior_weights

import mibench
from mibench.data.datasets.folder import Folder
from mibench.reports.compare import compare

CLASSES, IMAGES, STRANGERS, SIDE = 5000, 2, 40, 8
NOISE = 1.0  # of 255, far less than what lies between two people


def paint(root: Path, patches: np.ndarray, images: int) -> None:
    """A folder for each row of four brightnesses."""
    generator = np.random.default_rng(1)
    for person, row in enumerate(patches):
        folder = root / f"{person:04d}"
        folder.mkdir(parents=True)
        for take in range(images):
            grey = np.kron(row.reshape(2, 2), np.ones((SIDE // 2, SIDE // 2))) + generator.normal(0, NOISE)
            pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
            Image.fromarray(pixels).save(folder / f"{take}.png")


def nearest_mean(data: Folder) -> dict[str, Tensor]:
    """The toy world's classifier of these people."""
    images = data.private("train", SIDE)
    features = torch.nn.functional.adaptive_avg_pool2d(images.floats().mean(dim=1, keepdim=True), 2).flatten(1)
    sums = torch.zeros(CLASSES, 4).index_add_(0, images.labels, features)
    means = sums / images.labels.bincount(minlength=CLASSES)[:, None]
    return {"fc_layer.weight": 400 * means, "fc_layer.bias": -200 * means.square().sum(dim=1)}


@pytest.mark.slow
def test_five_thousand_classes(toy: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    steps = generator.permutation(9**4)[:CLASSES]  # nobody is nearer to anybody than one of nine steps of brightness
    patches = 20 + 26 * np.stack([steps // 9**place % 9 for place in range(4)], axis=1)
    paint(tmp_path / "people", patches, IMAGES)
    paint(tmp_path / "strangers", generator.uniform(20, 228, (STRANGERS, 4)), 5)
    settings = {"root": str(tmp_path / "people"), "public_root": str(tmp_path / "strangers")}
    data = Folder(**settings)
    assert data.num_classes == CLASSES
    weights = nearest_mean(data)
    measured = {"classes": CLASSES, "measured": {"test_accuracy": 1.0}}
    write_network(toy, "toynet@folder", "target", weights, data, **measured)
    write_network(toy, "toyjudge@folder", "judge", weights, data, **measured)
    write_network(toy, "toygan@folder", "prior", prior_weights(), data)
    protocol = {"identities": CLASSES, "metrics": ["accuracy", "knn-distance", "controls"]}
    run = mibench.run(
        "toyattack",
        "toynet",
        "folder",
        "toy",
        settings={"dataset": settings, "protocol": protocol, "attack": {"unit_size": 1000, "steps": 40}},
        out=tmp_path / "runs",
        device="cpu",
    )
    floor, metrics = run.floor, run.metrics
    assert floor is not None
    assert not run.missing
    assert len(run.units) == 5
    chosen = run.samples[run.samples["selected"]]
    assert chosen["identity"].nunique() == CLASSES
    assert len(chosen) == 2 * CLASSES
    assert chosen["predicted"].between(0, CLASSES - 1).all()
    for one in (run, floor):
        for name in ("acc1", "acc5"):
            estimate = one.metrics[name]
            assert estimate.n == CLASSES
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert one.metrics["acc1"].value <= one.metrics["acc5"].value
        assert one.metrics["acc1"].value == pytest.approx(one.samples.query("selected")["hit1"].mean())
        assert one.metrics["acc1"].high - one.metrics["acc1"].low < 0.05, "so many people tell a share well"
    assert metrics["control_private_test_acc1"].value > 0.99, "the judge knows the people"
    assert metrics["control_nearest_public_acc1"].value < 0.1, "and strangers are somebody else"
    assert floor.metrics["acc1"].value < 0.05, "draws of the prior are nobody of so many"
    (test,) = compare(tmp_path / "runs", metrics=["acc1"]).differences
    assert test.estimate.n == CLASSES
    assert test.p_holm is not None
