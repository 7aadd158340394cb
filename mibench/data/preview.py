"""Pictures for people: a data set at a glance, and the reconstructions of one identity, pixel for pixel."""

from __future__ import annotations

import io

import numpy as np
from torch import Tensor

from mibench.data.split import GroundTruth, IdentitySplit

MARGIN = 90  # pixels left of the rows, for their names
GAP = 2
HEADING = 22
BLOCKS = 8  # a hidden face is a mosaic of 8 x 8, as in the reports: a face still, but whose? (benchmarks/mosaic.py)
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)


def strip_png(pixels: Tensor) -> bytes:
    """Images side by side, uint8 ``(N, 3, H, W)``, as a PNG without margins, scaling or contrast stretch."""
    from PIL import Image

    row = pixels.permute(2, 0, 3, 1).reshape(pixels.shape[2], -1, 3).contiguous()
    buffer = io.BytesIO()
    Image.fromarray(row.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def preview_png(split: IdentitySplit, *, people: int, images: int, size: int, hide_faces: bool | None = None) -> bytes:
    """A PNG with ``people`` rows of one private person each, then rows of public images, ``images`` a row.

    Args:
        split: the data set; ``people`` is cut to the number of its classes (0 for a set that is public only).
        size: pixels a side of one image.
        hide_faces: show every image as a mosaic; None hides them unless the people are made up.
    """
    from PIL import Image, ImageDraw

    hide = not isinstance(split, GroundTruth) if hide_faces is None else hide_faces
    asked, people = people, min(people, split.num_classes)
    rows: list[tuple[str, Tensor]] = []
    if people:
        private = split.private("train", size, list(range(people)))
        rows += [(f"class {label}", private.pixels[private.labels == label][:images]) for label in range(people)]
    public = split.public(size, min(images * max(1, (people or asked) // 2), split.public_count()))
    rows += [("", public.pixels[start : start + images]) for start in range(0, len(public), images)]

    width = MARGIN + images * (size + GAP)
    height = 2 * HEADING + len(rows) * (size + GAP)
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    top = 0
    for number, (name, pixels) in enumerate(rows):
        if number in (0, people):
            heading = f"{split.name}: {'private people, one a row' if number < people else 'public people'}"
            draw.text((4, top + 5), heading + (" (faces are hidden)" if hide else ""), fill=INK)
            top += HEADING
        draw.text((4, top + size // 2 - 6), name, fill=INK)
        for column, image in enumerate(pixels):
            tile = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            if hide:
                tile = tile.resize((BLOCKS, BLOCKS), Image.Resampling.BOX).resize(tile.size, Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + column * (size + GAP), top))
        top += size + GAP
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()
