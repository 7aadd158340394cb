"""The same people under each attack or defence, beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mibench.reports.formatting import FLOOR
from mibench.results import LabelledImages, StoredRun

from .faces import (
    MOST_PIXELS,
    PEOPLE,
    Faces,
    Group,
    Person,
    Picture,
    PrivateImages,
    best,
    by_exposure,
    chosen_people,
    nearest,
    private_pictures,
    reconstruction,
    shown_private,
)

MOST_ROWS = 12  # of people and rows of a comparison, of each kind, where more than one person is shown
EXAMPLES = 2  # private images of a person
BYTES = 4_000_000  # of a page for images, at most: a page stays below five megabytes
LEAST_PIXELS = 32  # a side: smaller ones show nothing, and rows are left out instead
_BYTES_PER_PIXEL = 4  # of the worst PNG, which does not compress, in base64


@dataclass(frozen=True)
class ShownRow:
    """A row of a comparison: what it is called, the run whose images stand for it, and whether that is an attack."""

    label: str
    run: StoredRun

    @property
    def attacks(self) -> bool:
        """Whether it says who is exposed: the floor and controls do not."""
        return self.run.attack != FLOOR and not self.run.sees_private


@dataclass(frozen=True)
class _Room:
    """What fits into a page: people of each kind, pixels a side of their images, rows."""

    people: int
    pixels: int
    rows: int


def compared_faces(rows: Sequence[ShownRow], private: PrivateImages | None, *, hidden: bool, why: str) -> Faces:
    """The best reconstruction of each row, of the people who are most, medium and least exposed under all attacks.

    Args:
        rows: in the order in which they stand beside each other; all attack the same people.
        private: gives private images of identities. It is not asked where faces are hidden.
        hidden: leave private images out, and show reconstructions as mosaics.
        why: what to say where faces are hidden.
    """
    room = _room(len(rows), max(_side(row.run) for row in rows))
    exposing = [row for row in rows if row.attacks] or rows
    chosen = chosen_people(by_exposure(*(row.run for row in exposing)), room.people)
    images, notes = shown_private(rows[0].run, chosen, private, hidden=hidden, why=why)
    if room.rows < len(rows):
        notes.append(f"Images of the first {room.rows:,} of {len(rows):,} rows; the page of a run has its own.")
    shown = rows[: room.rows]
    groups = [
        Group(title, [_person(shown, identity, images, room, hidden=hidden) for identity in people])
        for title, people in chosen
    ]
    return Faces(groups, notes, hidden)


def _room(rows: int, side: int) -> _Room:
    """As many people of each kind, and as large, as there is room for, whatever their images show."""
    per_person = EXAMPLES + 2 * rows
    side = min(side, MOST_PIXELS)
    people = BYTES // (3 * per_person * _BYTES_PER_PIXEL * side**2)
    if people >= 1:
        return _Room(min(PEOPLE, people, max(1, MOST_ROWS // rows)), side, rows)
    pixels = math.isqrt(BYTES // (3 * per_person * _BYTES_PER_PIXEL))
    if pixels >= LEAST_PIXELS:
        return _Room(1, pixels, rows)
    images = BYTES // (3 * _BYTES_PER_PIXEL * LEAST_PIXELS**2)
    return _Room(1, LEAST_PIXELS, (images - EXAMPLES) // 2)


def _side(run: StoredRun) -> int:
    return max((int(max(unit.images.shape[-2:])) for unit in run.units[:1]), default=MOST_PIXELS)


def _person(
    rows: Sequence[ShownRow], identity: int, images: LabelledImages | None, room: _Room, *, hidden: bool
) -> Person:
    private = None if images is None else images.pixels[images.labels == identity]
    columns: list[tuple[str, Sequence[Picture]]] = []
    if private is not None and len(private):
        columns.append(("Private images", private_pictures(private[:EXAMPLES], identity, most=room.pixels)))
    for row in rows:
        pictures = []
        for sample in best(row.run, identity, 1):
            what = f"reconstruction of identity {identity}, {row.label}"
            pictures.append(reconstruction(row.run, sample, what, hidden=hidden, most=room.pixels))
            if private is not None:
                pictures += nearest(sample, private, what, most=room.pixels)
        columns.append((row.label, pictures))
    return Person(f"Identity {identity}", columns)
