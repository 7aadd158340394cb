"""The contact sheet: private images beside reconstructions and the private image each one comes nearest to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mibench.reports.formatting import context
from mibench.results import LabelledImages, StoredRun, number_text

from .style import BLUE, GREY, INK, LARGE, NORMAL, SMALL, VERMILION, figure, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Pixels = NDArray[np.uint8]

TILE, GAP, GUTTER = 112, 14, 46  # pixels: a tile, between tiles, between groups
CAPTION = 26  # pixels below a tile
INCH = 128  # pixels per inch on the page
BLOCKS = 8  # a hidden face is a mosaic of 8 x 8: a face still, but whose? (benchmarks/mosaic.py)


@dataclass(frozen=True)
class _Tile:
    pixels: Pixels
    column: float  # left edge in pixels
    caption: str = ""
    colour: str | None = None
    dashed: bool = False


def contact_sheet(
    run: StoredRun, label: str, private: LabelledImages | None, *, hide_faces: bool, rows: int = 10
) -> Figure:
    """One row per identity: private images | best reconstructions | the nearest private image of each.

    The identities are the first ones by class number and the reconstructions the best by the adversary's own
    confidence: nothing is picked by how well it turned out.

    Args:
        run: a scored run.
        label: what the run is called.
        private: private training images, ordered as the scoring saw them; without them only reconstructions are shown.
        hide_faces: show every face as a mosaic.
        rows: most identities.
    """
    table = run.samples[run.samples["selected"]]
    identities = sorted(table["identity"].unique())
    shown = identities[:rows]
    examples = 0 if private is None else 3
    most = 4 if private is not None else 8  # without private images there is room
    across = min(most, int(table[table["identity"].isin(shown)].groupby("identity").size().max()))
    groups = _group_edges(examples, across, with_neighbours=private is not None)
    width = groups["end"] + 8
    row_height = TILE + CAPTION + 12
    top, left = 34, 104
    fig = figure((left + width) / INCH, max(2.4, (top + row_height * len(shown)) / INCH + 0.95))
    axes = fig.add_subplot()
    axes.set_xlim(-left, width)
    axes.set_ylim(row_height * len(shown), -top)
    axes.set_aspect("equal")
    axes.axis("off")
    _group_titles(axes, groups, examples, across)
    for row, identity in enumerate(shown):
        own = table[table["identity"] == identity].sort_values("sample")
        y = row * row_height
        tiles = _row_tiles(run, own.head(across), identity, private, groups, examples, hide_faces)
        for tile in tiles:
            _draw(axes, tile, y)
        hits, count = int(own["hit1"].sum()), len(own)
        axes.text(-18, y + TILE / 2 - 12, f"identity {identity}", ha="right", va="center", fontsize=NORMAL, color=INK)
        axes.text(-18, y + TILE / 2 + 14, f"{hits} of {count} ✓", ha="right", va="center", fontsize=SMALL, color=GREY)
    explained = "" if private is None else "; d² squared distance in the judge's features"
    hidden = " Faces are hidden." if hide_faces else ""
    heading(
        fig,
        f"{label}: reconstructions",
        f"{context(run)}\nFirst {len(shown)} of {len(identities):,} identities; best {across} by the adversary's own "
        f"confidence. ✓ ✗ judge's verdict with its probability for the identity{explained}.{hidden}",
    )
    return fig


def _group_edges(examples: int, across: int, *, with_neighbours: bool) -> dict[str, float]:
    step = TILE + GAP
    start = examples * step + (GUTTER if examples else 0)
    end = start + across * step - GAP
    if not with_neighbours:
        return {"reconstructions": start, "end": end}
    neighbours = end + GAP + GUTTER
    return {"private": 0, "reconstructions": start, "neighbours": neighbours, "end": neighbours + across * step - GAP}


def _group_titles(axes: Axes, groups: dict[str, float], examples: int, across: int) -> None:
    titles = {
        "private": ("private images", examples),
        "reconstructions": ("best reconstructions", across),
        "neighbours": ("nearest private image of each", across),
    }
    for group, (title, count) in titles.items():
        if group in groups:
            middle = groups[group] + (count * (TILE + GAP) - GAP) / 2
            axes.text(middle, -14, title, ha="center", va="bottom", fontsize=LARGE - 1, color=INK)


def _row_tiles(
    run: StoredRun,
    best: Any,  # a pandas.DataFrame, whose stubs type no row
    identity: int,
    private: LabelledImages | None,
    groups: dict[str, float],
    examples: int,
    hide_faces: bool,
) -> list[_Tile]:
    step = TILE + GAP
    tiles = []
    own = None if private is None else private.pixels[private.labels == identity]
    if own is not None:
        for index, image in enumerate(own[:examples]):
            tiles.append(_Tile(_pixels(image, hide_faces), index * step))
    for index, row in enumerate(best.itertuples()):
        hit = bool(row.hit1)
        tiles.append(
            _Tile(
                _pixels(run.image(int(row.unit), int(row.index)), hide_faces),
                groups["reconstructions"] + index * step,
                f"{'✓' if hit else '✗'} {row.judge_confidence:.2f}",
                BLUE if hit else VERMILION,
                dashed=not hit,
            )
        )
        if own is not None and int(row.nearest_private) < len(own):
            tiles.append(
                _Tile(
                    _pixels(own[int(row.nearest_private)], hide_faces),
                    groups["neighbours"] + index * step,
                    f"d² {number_text(float(row.knn_distance))}",
                )
            )
    return tiles


def _draw(axes: Axes, tile: _Tile, y: float) -> None:
    from matplotlib.patches import Rectangle

    x = tile.column
    axes.imshow(tile.pixels, extent=(x, x + TILE, y + TILE, y), interpolation="none", zorder=1)
    if tile.colour is not None:
        axes.add_patch(
            Rectangle(
                (x - 1.5, y - 1.5),
                TILE + 3,
                TILE + 3,
                fill=False,
                edgecolor=tile.colour,
                linewidth=2.2,
                linestyle=(0, (3, 1.5)) if tile.dashed else "solid",
                zorder=2,
            )
        )
    if tile.caption:
        axes.text(
            x + TILE / 2, y + TILE + 5, tile.caption, ha="center", va="top", fontsize=SMALL, color=tile.colour or GREY
        )


def _pixels(image: Tensor, hide: bool) -> Pixels:
    """A uint8 image ``(3, H, W)`` as a tile ``(TILE, TILE, 3)``; a hidden one keeps 64 mean colours only."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    if hide:
        small = picture.resize((BLOCKS, BLOCKS), Image.Resampling.BOX)
        return np.asarray(small.resize((TILE, TILE), Image.Resampling.NEAREST))
    return np.asarray(picture.resize((TILE, TILE), Image.Resampling.BICUBIC))
