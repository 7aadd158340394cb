"""The auditor's images: private people, public images, and what the classes are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mibench import registry
from mibench import settings as config
from mibench.data.directory_listing import is_file, is_folder, real
from mibench.data.files import FileSplit
from mibench.data.split import IdentitySplit, Part
from mibench.errors import MibenchError
from mibench.settings import Layer

from .request import AuditRequest

ORDERS = ("imagefolder", "sorted")  # of classes, by name
FEW_PUBLIC = 1000  # below, a prior learns single images by heart


@dataclass(frozen=True)
class AuditData:
    """The data of an audit and the settings that make it again."""

    dataset: IdentitySplit
    settings: dict[str, object]
    counts: dict[str, int]  # people, train, test, public
    unused: tuple[str, ...]  # what lies beside the images and is not used, a line each
    owners_test: bool  # the test images were set apart by the owner of the data, not by a hash of their names

    @property
    def summary(self) -> str:
        """One line for a person."""
        c = self.counts
        return (
            f"data: {c['people']:,} people, {c['train']:,} images of them and {c['test']:,} held out; "
            f"{c['public']:,} public images"
        )


def read_material(request: AuditRequest) -> AuditData:
    """Read and check the data.

    Raises:
        MibenchError: a folder that is missing or has too little in it, people on both sides.
    """
    settings = {**_dataset_settings(request), **request.settings_of("dataset")}
    kind = registry.load("dataset", request.dataset)
    dataset, _ = config.resolve(kind, [Layer("--set", settings, by_user=True)], scope="dataset")
    dataset.check_disjoint()
    counts = {"people": dataset.num_classes, **_counts(dataset)}
    if counts["people"] < 2:
        raise MibenchError(f"{_name(request)} has {counts['people']} private people; a classifier has two at least")
    for part in ("train", "test"):
        if not counts[part]:
            raise MibenchError(f"{_name(request)} leaves no {part} images", cure="give each person some more")
    if not counts["public"]:
        raise MibenchError(
            "there are no public images, which an adversary learns faces from",
            cure="name some of other people with --public",
        )
    unused = tuple(dataset.unused()) if isinstance(dataset, FileSplit) else ()
    return AuditData(dataset, settings, counts, unused, owners_test=dataset.has_test_set)


def _dataset_settings(request: AuditRequest) -> dict[str, object]:
    """What the flags say about the data, as settings of the data set."""
    settings: dict[str, object] = {}
    for option, field, path in (("--data", "root", request.data), ("--public", "public_root", request.public)):
        if path is None:
            continue
        if not is_folder(path):
            raise MibenchError(f"{option} {path}: there is no such folder")
        settings[field] = str(real(path))
    if request.classes in ORDERS:
        settings["labels"] = request.classes
    elif request.classes is not None:
        if not is_file(Path(request.classes)):
            raise MibenchError(
                f"--classes {request.classes}: there is no such file; it holds one directory name a line, in the "
                f"model's order of classes (or say {' or '.join(ORDERS)})"
            )
        settings["classes"] = str(real(Path(request.classes)))
    return settings


def _counts(dataset: IdentitySplit) -> dict[str, int]:
    parts: tuple[Part, ...] = ("train", "test")
    private = {
        part: len(dataset.rows(part)) if isinstance(dataset, FileSplit) else len(dataset.private(part, 16))
        for part in parts
    }
    return private | {"public": dataset.public_count()}


def class_names(dataset: IdentitySplit) -> list[str]:
    """What each class is called: the directory of its images, else its number."""
    names = dataset.class_names
    return list(names) if names is not None else [str(label) for label in range(dataset.num_classes)]


def _name(request: AuditRequest) -> str:
    return f"--data {request.data}" if request.data is not None else f"data set {request.dataset!r}"
