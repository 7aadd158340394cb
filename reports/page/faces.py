"""Who is shown, and which images of them: private images, reconstructions, the private image nearest to each."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mibench.api import MibenchError
from mibench.results import LabelledImages, StoredRun, number_text, per_identity

if TYPE_CHECKING:
    from torch import Tensor

PEOPLE = 3  # of each kind
IMAGES = 3  # of each kind and person
MOST_PIXELS = 112  # a side: larger ones are scaled down, so that a page stays a few megabytes
BLOCKS = 8  # a hidden face keeps 8 x 8 mean colours, as in figures (benchmarks/mosaic.py)

Verdict = Literal["accepted", "refused"]
PrivateImages = Callable[[StoredRun, Sequence[int]], LabelledImages]


@dataclass(frozen=True)
class Picture:
    """An image of a page: the image itself as a ``data:`` address, its text, what stands below it."""

    data: str
    alt: str
    caption: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Person:
    """A person under attack with images in columns of one title each."""

    title: str
    columns: Sequence[tuple[str, Sequence[Picture]]]


@dataclass(frozen=True)
class Group:
    """People of a kind: most, median and least exposed."""

    title: str
    people: Sequence[Person]


@dataclass(frozen=True)
class Faces:
    """Everything that is shown, and sentences on what is not."""

    groups: Sequence[Group]
    notes: Sequence[str]
    hidden: bool


def by_exposure(run: StoredRun) -> list[int]:
    """Identities, the most exposed first: recognised most often, and among equals nearest to their private images."""
    accuracy, distance = per_identity(run, "hit1"), per_identity(run, "knn_distance")
    return sorted(
        (int(identity) for identity in accuracy.index),
        key=lambda identity: (-accuracy[identity], distance[identity], identity),
    )


def chosen_people(order: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Titles and identities of the most exposed, the median and the least exposed; nobody twice."""
    if len(order) <= 3 * PEOPLE:
        return [("Everybody, the most exposed first", list(order))]
    middle = (len(order) - PEOPLE) // 2
    return [
        ("Most exposed", list(order[:PEOPLE])),
        ("Median", list(order[middle : middle + PEOPLE])),
        ("Least exposed", list(order[-PEOPLE:])),
    ]


def faces(run: StoredRun, private: PrivateImages | None, *, hidden: bool, why: str) -> Faces:
    """Images of the people of a run.

    Args:
        run: a scored run.
        private: gives private images of identities, as the scoring saw them. It is not asked where faces are hidden.
        hidden: leave private images out, and show reconstructions as mosaics.
        why: what to say where faces are hidden.
    """
    chosen = chosen_people(by_exposure(run))
    notes = [
        "Chosen by how exposed they are, so these people do not stand for the others; reconstructions are the best "
        "ones by the adversary's own confidence, whatever the judge says of them."
    ]
    images: LabelledImages | None = None
    if hidden:
        notes.append(why)
    elif private is not None:
        try:
            images = private(run, [identity for _, people in chosen for identity in people])
        except MibenchError as error:
            notes.append(f"Private images are left out: {error.problems[0]}.")
    groups = [
        Group(title, [_person(run, identity, images, hidden=hidden) for identity in people]) for title, people in chosen
    ]
    return Faces(groups, notes, hidden)


def _person(run: StoredRun, identity: int, images: LabelledImages | None, *, hidden: bool) -> Person:
    table = run.samples
    own = table[table["selected"] & (table["identity"] == identity)].sort_values("sample")
    title = f"Identity {identity}: {int(own['hit1'].sum())} of {len(own)} accepted"
    reconstructions, neighbours = [], []
    private = None if images is None else images.pixels[images.labels == identity]
    for number, row in enumerate(own.head(IMAGES).to_dict("records"), start=1):
        verdict: Verdict = "accepted" if row["hit1"] else "refused"
        what = "Mosaic of reconstruction" if hidden else "Reconstruction"
        sure = number_text(_number(row.get("judge_confidence")))
        reconstructions.append(
            Picture(
                _data(run.image(int(row["unit"]), int(row["index"])), hidden=hidden),
                f"{what} {number} of identity {identity}, {verdict} by the judge with probability {sure}",
                f"{'✓' if row['hit1'] else '✗'} {verdict} {sure}",
                verdict,
            )
        )
        nearest = _number(row.get("nearest_private"))
        if private is not None and nearest is not None and 0 <= nearest < len(private):
            distance = number_text(_number(row.get("knn_distance")))
            neighbours.append(
                Picture(
                    _data(private[int(nearest)], hidden=False),
                    f"Private image nearest to reconstruction {number} of identity {identity}, d² {distance}",
                    f"d² {distance}",
                )
            )
    columns: list[tuple[str, Sequence[Picture]]] = []
    if private is not None and len(private):
        examples = [
            Picture(_data(image, hidden=False), f"Private image {number} of identity {identity}", f"private {number}")
            for number, image in enumerate(private[:IMAGES], start=1)
        ]
        columns.append(("Private images", examples))
    columns.append(("Reconstructions", reconstructions))
    if neighbours:
        columns.append(("Nearest private image of each", neighbours))
    return Person(title, columns)


def _number(value: object) -> float | None:
    """A cell of ``samples.csv`` as a number; None where it holds none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _data(image: Tensor, *, hidden: bool) -> str:
    """A uint8 image ``(3, H, W)`` as the address of a PNG; of a hidden one 64 mean colours are all that is in it."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    if hidden:
        picture = picture.resize((BLOCKS, BLOCKS), Image.Resampling.BOX)
    elif max(picture.size) > MOST_PIXELS:
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
