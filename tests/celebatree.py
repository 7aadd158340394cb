"""A tiny CelebA in its own format: what the tests of both protocols and of the verification look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = "img_align_celeba"


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A smooth picture that JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write(root: Path, *, suffix: str = "jpg", width: int = 178, height: int = 218, listed: str = "jpg") -> Path:
    """Three private people with three train images and one test image each, four public images of two others.

    Image ``n`` of 1 to 12 shows person ``100 + (n - 1) // 4``; 13 to 16 show 201, 200, 201, 200.

    Args:
        root: folder to make.
        suffix: of the files.
        width: of the pictures.
        height: of the pictures.
        listed: suffix that the lists say.
    """
    (root / FOLDER).mkdir(parents=True)
    (root / "meta").mkdir()
    lists: dict[str, list[str]] = {"trainset": [], "testset": [], "ganset": []}
    people, partition = [], []
    for number in range(1, 17):
        options = {"quality": 95} if suffix == "jpg" else {}
        picture(number, width, height).save(root / FOLDER / f"{number:06d}.{suffix}", **options)
        name, label = f"{number:06d}.{listed}", (number - 1) // 4
        if number <= 12:
            lists["testset" if number % 4 == 0 else "trainset"].append(f"{name} {label}")
        else:
            lists["ganset"].append(name)
        people.append(f"{number:06d}.jpg {100 + label if number <= 12 else 200 + number % 2}")
        partition.append(f"{number:06d}.jpg {number % 3}")
    for stem, lines in lists.items():
        (root / "meta" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(people) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return root
