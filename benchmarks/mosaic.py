"""What a judge still recognises through the mosaic that hides faces, by its number of blocks.

    python benchmarks/mosaic.py                        # half a minute on one core
    python benchmarks/mosaic.py --people 100 --blocks 4,8,16

Private test images of `synthfaces` at 64 pixels, each averaged over B x B blocks, shown to the shipped judge. It was
not trained on mosaics, and a network that was would see more: a mosaic hides people from a glance, not from an effort.
"""

from __future__ import annotations

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 64


@click.command(help=__doc__)
@click.option("--people", default=30, show_default=True)
@click.option("--blocks", default="4,6,8,10,12,16", show_default=True)
def main(people: int, blocks: str) -> None:
    from mibench import registry
    from mibench.weights import cards, load

    split = registry.load("dataset", "synthfaces")()
    judge = load.build_classifier_extractor(cards.find("judge", "facenet112", "synthfaces"), torch.device("cpu"), None)
    shown = split.private("test", SIZE, list(range(people)))
    click.echo("| blocks | right |")
    click.echo("| --- | --- |")
    for count in [0, *map(int, blocks.split(","))]:
        pixels = torch.stack([mosaic(image, count) for image in shown.pixels])
        right = float((judge(pixels).logits.argmax(dim=1) == shown.labels).float().mean())
        click.echo(f"| {f'{count} x {count}' if count else 'none'} | {right:.1%} |")
    click.echo(f"\n{len(shown.labels)} images of {people} people, {split.num_classes} to choose from.")


def mosaic(image: Tensor, count: int) -> Tensor:
    """An image uint8 ``(3, H, W)`` as ``count`` by ``count`` mean colours; as it is for 0."""
    if not count:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    small = picture.resize((count, count), Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


if __name__ == "__main__":
    main()
