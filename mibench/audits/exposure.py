"""Who is exposed most: how often a person is recognised in reconstructions, and the image they come closest to."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from mibench.data.files import FileSplit
from mibench.data.split import IdentitySplit
from mibench.errors import printable
from mibench.metrics.share_interval import clopper_pearson
from mibench.results import StoredRun, csv_cell, interval_text, number_text

from .data import class_names

if TYPE_CHECKING:
    import pandas as pd

FILE = "exposure.csv"
SHOWN = 5  # people on a terminal


@dataclass(frozen=True, kw_only=True)
class PersonExposure:
    """One attacked person.

    Attributes:
        identity, name: the class, and the directory of its images (its number where there is none); what cannot be
            printed is escaped, in names of files as well.
        samples, recognised: reconstructions, and how many of them the judge takes for the person.
        share, low, high: ``recognised / samples`` in [0, 1] with its exact 95 % interval, as of independent trials.
        floor_share: the same share of what the prior gives without the attack; None without a floor.
        image, file: the private training image that a reconstruction comes closest to: its number among the person's,
            from 0, in the order of the data set, and its name below the data folder (None where images are no files).
        distance: from that image to its nearest reconstruction, squared L2 in judge features.
        floor_distance: the same distance for the floor: of its samples to the image that one of them comes closest to.
    """

    identity: int
    name: str
    samples: int
    recognised: int
    share: float
    low: float
    high: float
    floor_share: float | None
    image: int | None
    file: str | None
    distance: float | None
    floor_distance: float | None


def exposure_of(run: StoredRun, dataset: IdentitySplit) -> tuple[PersonExposure, ...]:
    """Every attacked person, the most exposed first: by share, then by distance.

    Args:
        run: a scored run; its floor is looked at, too.
        dataset: names classes and images.
    """
    names = class_names(dataset)
    files = dataset.names_by_class("train") if isinstance(dataset, FileSplit) else {}
    floor = {} if run.floor is None else _by_person(run.floor)
    people = [_exposure(label, rows, floor.get(label), names, files) for label, rows in _by_person(run).items()]
    return tuple(sorted(people, key=lambda each: (-each.share, _or_infinity(each.distance), each.identity)))


def exposure_csv(people: Sequence[PersonExposure]) -> str:
    """``exposure.csv``: a row for each person. Text is escaped, so that a spreadsheet takes no name for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(PersonExposure)])
    for person in people:
        writer.writerow([csv_cell(value) for value in asdict(person).values()])
    return text.getvalue()


def exposure_lines(people: Sequence[PersonExposure]) -> list[str]:
    """The first people, for a terminal."""
    shown = people[:SHOWN]
    width = max((len(person.name) for person in shown), default=0)
    return [f"  {person.name:{width}}  {_in_words(person)}" for person in shown]


def _in_words(person: PersonExposure) -> str:
    words = interval_text(person.share, person.low, person.high, percent=True)
    if person.floor_share is not None:
        words += f", floor {number_text(person.floor_share, percent=True)} %"
    if person.distance is None:
        return words
    image = f"image {person.image}" if person.file is None else person.file
    words += f"; closest to {image}, distance {number_text(person.distance)}"
    return words if person.floor_distance is None else f"{words} (floor {number_text(person.floor_distance)})"


def _by_person(run: StoredRun) -> dict[int, pd.DataFrame]:
    selected = run.samples[run.samples["selected"]]
    return {label: selected[selected["identity"] == label] for label in sorted(set(selected["identity"].tolist()))}


def _exposure(
    label: int,
    rows: pd.DataFrame,
    floor: pd.DataFrame | None,
    names: Sequence[str],
    files: Mapping[int, Sequence[str]],
) -> PersonExposure:
    samples, recognised = len(rows), int(rows["hit1"].sum())
    low, high = clopper_pearson(recognised / samples, samples)
    image, distance = _closest(rows)
    listed = files.get(label, ())
    return PersonExposure(
        identity=label,
        name=printable(names[label]) if label < len(names) else str(label),
        samples=samples,
        recognised=recognised,
        share=recognised / samples,
        low=low,
        high=high,
        floor_share=None if floor is None else float(floor["hit1"].mean()),
        image=image,
        file=printable(listed[image]) if image is not None and image < len(listed) else None,
        distance=distance,
        floor_distance=None if floor is None else _closest(floor)[1],
    )


def _closest(rows: pd.DataFrame) -> tuple[int | None, float | None]:
    """The number of the private image that a sample comes closest to, and the distance."""
    if "knn_distance" not in rows or "nearest_private" not in rows:
        return None, None
    pairs = zip(rows["knn_distance"].tolist(), rows["nearest_private"].tolist(), strict=True)
    distance, image = min((pair for pair in pairs if math.isfinite(pair[0])), default=(None, None))
    return image, distance


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
