"""Splits of CelebA that follow from its own files, for whoever lacks the protocol's lists. No file need exist: both
depend on what is listed, so a missing image moves no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mibench.data.rows import Role, Row
from mibench.errors import MibenchError

Listed = dict[Role, list[Row]]
SEED = 42  # of every shuffle, as in the field's code
TRAIN = 27  # images of a person, of about 30
FOLDER = "img_align_celeba"


def rebuilt_split(people: Mapping[str, int], *, classes: int, public: int) -> Listed:
    """The fallback for the 64-pixel protocol: results compare with nobody's.

    Private are the ``classes`` identities with most images (ties by number), labelled in the order of their numbers;
    27 images of each are for training (a tenth less than all where there are fewer than 28), the rest for testing.
    Public are at most ``public`` images drawn from all other people.

    Args:
        people: stem of an image -> identity number.
        classes: private identities.
        public: images.
    """
    counts = Counter(people.values())
    private = sorted(sorted(counts, key=lambda person: (-counts[person], person))[:classes])
    _check_enough(counts, classes)
    names: dict[int, list[str]] = {person: [] for person in private}
    others: list[str] = []
    for name, person in people.items():
        names.get(person, others).append(name)
    listed: Listed = {"train": [], "test": [], "public": []}
    for label, person in enumerate(private):
        shuffled = _shuffled(sorted(names[person]))
        kept = min(TRAIN, len(shuffled) - max(1, len(shuffled) // 10))
        listed["train"] += [_row(name, label, person) for name in sorted(shuffled[:kept])]
        listed["test"] += [_row(name, label, person) for name in sorted(shuffled[kept:])]
    listed["public"] = [_row(name, -1, people[name]) for name in sorted(_shuffled(sorted(others))[:public])]
    return listed


def frequent_split(people: Mapping[str, int], order: Sequence[str], *, classes: int, public: int) -> Listed:
    """PPA's split: the label is the rank by number of images; nine tenths of all their images, shuffled, train.

    Args:
        people: stem of an image -> identity number.
        order: stems as the partition file lists them: who comes first wins a tie, and the shuffle begins from it.
        classes: private identities.
        public: images of other people, at most.
    """
    counts = Counter(people[name] for name in order)
    _check_enough(counts, classes)
    label = {person: rank for rank, (person, _) in enumerate(counts.most_common(classes))}  # keeps the order of ties
    private = [name for name in order if people[name] in label]
    shuffled = _shuffled(private)
    train = set(shuffled[: int(0.9 * len(shuffled))])
    others = [name for name in order if people[name] not in label]
    drawn = set(_shuffled(others)[:public])
    return {
        "train": [_row(name, label[people[name]], people[name]) for name in private if name in train],
        "test": [_row(name, label[people[name]], people[name]) for name in private if name not in train],
        "public": [_row(name, -1, people[name]) for name in others if name in drawn],
    }


def _check_enough(counts: Mapping[int, int], classes: int) -> None:
    if classes < 2 or len(counts) <= classes:
        raise MibenchError(
            f"{classes} private people were asked for, the identity file has {len(counts)}, of whom some must "
            "stay public",
            cure="--set dataset.classes=N with N from 2",
        )


def _shuffled(names: list[str]) -> list[str]:
    """A copy in the order that ``numpy.random.seed(42); numpy.random.shuffle(...)`` gives in every numpy."""
    copy = list(names)
    np.random.RandomState(SEED).shuffle(copy)
    return copy


def _row(name: str, label: int, person: int) -> Row:
    return Row(f"{FOLDER}/{name}.jpg", label, f"celeba-{person}")
