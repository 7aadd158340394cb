"""Who is shown, and which images of them: private images, reconstructions, the private image nearest to each."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mibench.api import MibenchError
from mibench.results import LabelledImages, StoredRun, number_text, per_identity

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

PEOPLE = 3  # of each kind
IMAGES = 3  # of each kind and person
MOST_PIXELS = 112  # a side: larger ones are scaled down, so that a page stays a few megabytes
BLOCKS = 8  # a hidden face keeps 8 x 8 mean colours, as in figures (benchmarks/mosaic.py)

WHY_HIDDEN = (
    "These may be real people, and a page is easily forwarded: private images are left out and reconstructions are "
    "mosaics. A reconstruction can show what somebody looks like as well as a photograph does. --show-faces shows "
    "them; do so only where the people, or whoever holds the data, would agree to it being passed on."
)

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


def by_exposure(*runs: StoredRun) -> list[int]:
    """Identities, the most exposed first: recognised most often, and among equals nearest to their private images.

    Of several runs, which attack the same people, the means count.
    """
    accuracy, distance = (_mean([per_identity(run, column) for run in runs]) for column in ("hit1", "knn_distance"))
    return sorted(
        (int(identity) for identity in accuracy.index),
        key=lambda identity: (-accuracy[identity], distance[identity], identity),
    )


def _mean(values: Sequence[pd.Series[float]]) -> pd.Series[float]:
    total = values[0]
    for each in values[1:]:
        total = total + each
    return total / len(values)


def chosen_people(order: Sequence[int], each: int = PEOPLE) -> list[tuple[str, list[int]]]:
    """Titles and identities of the ``each`` most exposed, median and least exposed people; nobody twice."""
    if len(order) <= 3 * each:
        return [("Everybody, the most exposed first", list(order))]
    middle = (len(order) - each) // 2
    return [
        ("Most exposed", list(order[:each])),
        ("Median", list(order[middle : middle + each])),
        ("Least exposed", list(order[-each:])),
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
    images, notes = shown_private(run, chosen, private, hidden=hidden, why=why)
    groups = [
        Group(title, [_person(run, identity, images, hidden=hidden) for identity in people]) for title, people in chosen
    ]
    return Faces(groups, notes, hidden)


def shown_private(
    run: StoredRun,
    chosen: Sequence[tuple[str, Sequence[int]]],
    private: PrivateImages | None,
    *,
    hidden: bool,
    why: str,
) -> tuple[LabelledImages | None, list[str]]:
    """Private images of the chosen people where they are shown, and sentences on the choice and on what is left out."""
    notes = [
        "Chosen by how exposed they are, so these people do not stand for the others; reconstructions are the best "
        "ones by the adversary's own confidence, whatever the judge says of them."
    ]
    if hidden:
        return None, [*notes, why]
    if private is None:
        return None, notes
    try:
        return private(run, [identity for _, people in chosen for identity in people]), notes
    except MibenchError as error:
        return None, [*notes, f"Private images are left out: {error.problems[0]}."]


def private_pictures(images: Tensor, identity: int, *, most: int = MOST_PIXELS) -> list[Picture]:
    """The first private images of a person."""
    return [
        Picture(
            _data(image, hidden=False, most=most), f"Private image {number} of identity {identity}", f"private {number}"
        )
        for number, image in enumerate(images, start=1)
    ]


def best(run: StoredRun, identity: int, count: int) -> list[dict[str, object]]:
    """Rows of ``samples.csv``: the best reconstructions of a person by the adversary's own confidence."""
    table = run.samples
    own = table[table["selected"] & (table["identity"] == identity)].sort_values("sample")
    return [{str(key): value for key, value in row.items()} for row in own.head(count).to_dict("records")]


def reconstruction(
    run: StoredRun, row: Mapping[str, object], what: str, *, hidden: bool, most: int = MOST_PIXELS
) -> Picture:
    """A reconstruction with the judge's verdict; ``what``: such as ``reconstruction 1 of identity 3``."""
    verdict: Verdict = "accepted" if row["hit1"] else "refused"
    sure = number_text(_number(row.get("judge_confidence")))
    text = f"{'mosaic of ' if hidden else ''}{what}"
    return Picture(
        _data(run.image(_index(row["unit"]), _index(row["index"])), hidden=hidden, most=most),
        f"{text[:1].upper()}{text[1:]}, {verdict} by the judge with probability {sure}",
        f"{'✓' if row['hit1'] else '✗'} {verdict} {sure}",
        verdict,
    )


def nearest(row: Mapping[str, object], private: Tensor, what: str, *, most: int = MOST_PIXELS) -> list[Picture]:
    """The private image that a reconstruction comes nearest to; none where it is not known."""
    place = _number(row.get("nearest_private"))
    if place is None or not 0 <= place < len(private):
        return []
    distance = number_text(_number(row.get("knn_distance")))
    alt = f"Private image nearest to {what}, d² {distance}"
    return [Picture(_data(private[int(place)], hidden=False, most=most), alt, f"d² {distance}")]


def _person(run: StoredRun, identity: int, images: LabelledImages | None, *, hidden: bool) -> Person:
    table = run.samples
    own = table[table["selected"] & (table["identity"] == identity)]
    title = f"Identity {identity}: {int(own['hit1'].sum())} of {len(own)} accepted"
    reconstructions, neighbours = [], []
    private = None if images is None else images.pixels[images.labels == identity]
    for number, row in enumerate(best(run, identity, IMAGES), start=1):
        what = f"reconstruction {number} of identity {identity}"
        reconstructions.append(reconstruction(run, row, what, hidden=hidden))
        if private is not None:
            neighbours += nearest(row, private, what)
    columns: list[tuple[str, Sequence[Picture]]] = []
    if private is not None and len(private):
        columns.append(("Private images", private_pictures(private[:IMAGES], identity)))
    columns.append(("Reconstructions", reconstructions))
    if neighbours:
        columns.append(("Nearest private image of each", neighbours))
    return Person(title, columns)


def _index(value: object) -> int:
    number = _number(value)
    return -1 if number is None else int(number)


def _number(value: object) -> float | None:
    """A cell of ``samples.csv`` as a number; None where it holds none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _data(image: Tensor, *, hidden: bool, most: int) -> str:
    """A uint8 image ``(3, H, W)`` as the address of a PNG of at most ``most`` pixels a side; of a hidden one 64 mean
    colours are all that is in it."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    if hidden:
        picture = picture.resize((BLOCKS, BLOCKS), Image.Resampling.BOX)
    elif max(picture.size) > most:
        picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
