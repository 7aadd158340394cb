"""How hard is a world of synthfaces? What a classifier, a linear classifier and an attacker without an attack reach.

    python benchmarks/calibrate_world.py
    python benchmarks/calibrate_world.py --world "harder: spread=0.5, nuisance=1.2" --epochs 8

A world tells attacks apart when a network recognises its people, a linear classifier on coarse pixels does not, and the
best public images do not pass for private people already. For each world the script trains two small classifiers that
share nothing but the data: one plays the target and ranks public images, the other the judge that counts how many of
those at the top are taken for the person (`public floor`). The figures of the shipped networks and prior, which are
larger and trained for longer, come from `mibench run`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from search import number
from torch import Tensor, nn

from mibench.api import TrainingContext
from mibench.data.datasets.synthfaces import SynthFaces
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.training.recipes import TrainTarget

WORLDS = (
    "rough: identities=100, spread=1.0, nuisance=0.5, train_images=40",
    "far apart: spread=1.0",
    "calm: nuisance=0.5",
    "standard:",
    "close: spread=0.45",
    "stormy: nuisance=1.4",
)
TOP = 8  # public images of each person that count for the floor


class NoCheckpoint:
    """The trainings here are short: nothing is kept."""

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any]) -> None:
        del state


@click.command(help=__doc__)
@click.option("--world", "worlds", multiple=True, metavar="NAME: SETTING=VALUE, ...", help="[default: six worlds]")
@click.option("--epochs", default=6, show_default=True)
@click.option("--width", default=0.125, show_default=True, help="Of the two VGG16 classifiers.")
@click.option("--public", "public_images", default=5000, show_default=True, help="Public images to choose from.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table as Markdown.")
def main(worlds: tuple[str, ...], epochs: int, width: float, public_images: int, out: Path | None) -> None:
    lines = [
        "| world | settings | people | linear, 16×16 px | classifier | a second one | public floor | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for text in worlds or WORLDS:
        name, _, rest = text.partition(":")
        settings = dict(item.strip().split("=") for item in rest.split(",") if item.strip())
        world = SynthFaces(**{key: number(value) for key, value in settings.items()})
        started = time.perf_counter()
        figures = measure(world, epochs, width, public_images)
        row = [name, rest.strip() or "defaults", str(world.identities), *(f"{100 * f:.1f} %" for f in figures)]
        lines.append("| " + " | ".join(row) + f" | {time.perf_counter() - started:.0f} |")
        click.echo(lines[-1])
        if out is not None:
            out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(world: SynthFaces, epochs: int, width: float, public_images: int) -> tuple[float, ...]:
    """Accuracy of the linear classifier, of both classifiers, and the public floor."""
    train, test = world.private("train", 64), world.private("test", 64)
    linear = linear_accuracy(coarse(train.floats()), train.labels, coarse(test.floats()), test.labels, world.identities)
    public = world.public(64, public_images).floats()
    scores, accuracies = [], []
    for seed in (0, 1):
        recipe = TrainTarget(
            architecture="vgg16",
            width=width,
            epochs=epochs,
            learning_rate=0.03,
            weight_decay=5e-4,
            schedule="cosine",
            augment="light",
            evaluate_every=epochs,
        )
        workshop = TrainingContext(torch.device("cpu"), NoCheckpoint(), seed=seed, precision="bfloat16")  # type: ignore[arg-type]
        trained = recipe.run(world, workshop)
        network = VGG16(**trained.arguments)
        network.load_state_dict(dict(trained.weights))
        accuracies.append(float(trained.measured["test_accuracy"]))
        scores.append(classify(network.eval(), public))
    chosen = scores[0].topk(TOP, dim=0).indices  # (TOP, C)
    taken_for = scores[1].argmax(dim=1)[chosen]
    floor = float((taken_for == torch.arange(world.identities)).float().mean())
    return linear, *accuracies, floor


def coarse(images: Tensor) -> Tensor:
    """Mean colours of 16 x 16 cells: ``(N, 768)``."""
    return nn.functional.avg_pool2d(images, images.shape[-1] // 16).flatten(1)


def linear_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int) -> float:
    """Test accuracy of multinomial regression (weight decay, the best of 30 epochs: generous to the simple method)."""
    mean, std = x.mean(0), x.std(0)
    x, x_test = (x - mean) / std, (x_test - mean) / std
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(x.shape[1], classes)
    adam = torch.optim.Adam(layer.parameters(), 2e-3, weight_decay=1e-4)
    best = 0.0
    for _ in range(30):
        for part in torch.randperm(len(x), generator=generator).split(512):
            loss = nn.functional.cross_entropy(layer(x[part]), y[part])
            adam.zero_grad()
            loss.backward()
            adam.step()
        best = max(best, float((layer(x_test).argmax(1) == y_test).float().mean()))
    return best


@torch.no_grad()
def classify(network: nn.Module, images: Tensor) -> Tensor:
    """Softmax of the classifier ``(N, C)``."""
    return torch.cat([network(part).logits.softmax(1) for part in images.split(256)])


if __name__ == "__main__":
    main()
