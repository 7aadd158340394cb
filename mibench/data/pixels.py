"""From lists of pictures to uint8 pixels, out of the cache where they lie in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mibench.data.images import Framing, Picture, decoded
from mibench.data.pixel_cache import PixelCache, cache_folder
from mibench.errors import MibenchError
from mibench.system.progress import Reporter, current_reporter


def load(
    pictures: Sequence[Picture],
    size: int,
    framing: Framing,
    wanted: Sequence[int] | None = None,
    *,
    reporter: Reporter | None = None,
) -> Tensor:
    """Decode pictures, or take them from the cache.

    Args:
        pictures: a whole list, so that its parts share one cache.
        size: side of the images, in pixels.
        framing: crop and resize.
        wanted: places in ``pictures``, any order; None: all.
        reporter: who hears of the progress; None: the reporter of the command that runs.

    Returns:
        uint8 ``(N, 3, size, size)``, a permuted view of ``(N, size, size, 3)``. With the cache it is a view of a
        mapped file (writing to it changes the memory of this process only), unless ``wanted`` has gaps.

    Raises:
        MibenchError: a file that is missing, damaged, no image, or not of the expected size; the line names it.
    """
    if size < 1:
        raise MibenchError(f"images have at least one pixel a side, {size} was asked for")
    rows = np.arange(len(pictures)) if wanted is None else np.asarray(wanted, dtype=np.int64)
    if not rows.size:
        return torch.empty(0, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    reporter = reporter or current_reporter()
    folder = cache_folder()
    if folder is not None:
        stored = PixelCache.of(folder, pictures, size, framing).read(rows, reporter)
    else:
        stored = np.empty((rows.size, size, size, 3), dtype=np.uint8)
        chosen = [pictures[row] for row in rows]
        for row, pixels in enumerate(decoded(chosen, size, framing, reporter)):
            stored[row] = pixels
    return torch.from_numpy(stored).permute(0, 3, 1, 2)
