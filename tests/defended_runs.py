"""Finished runs against defended classifiers of known strength, to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from comparable_runs import edit, make
from untouched import untouched

ATTACKS = {"ppa": 0.6, "dmmia": 0.7}  # attack -> its strength against the twin
LEAKS = {  # tag -> how much less an attack gets out of it, test accuracy, seconds, defence and settings
    "": (0.0, 0.98, 100.0, None),
    "short": (0.15, 0.90, 40.0, None),
    "weak": (0.05, 0.97, 150.0, ("shield", {"strength": 0.1, "steps": 3})),
    "strong": (0.45, 0.93, 160.0, ("shield", {"strength": 0.9, "steps": 3})),
    "veil": (0.3, 0.95, None, ("veil", {"depth": 2})),
    "open": (-0.2, 0.985, 100.0, ("open", {"alpha": 0.1})),
}


def attacked(tag: str, twin: str = "vgg16@synthfaces") -> dict[str, Any]:
    """What ``run.json`` records of a classifier of :data:`LEAKS`."""
    _, accuracy, seconds, defence = LEAKS[tag]
    record: dict[str, Any] = {"test_accuracy": accuracy, "test_images": 3000, "seconds": seconds, "defence": None}
    if defence is not None:
        name, settings = defence
        record["defence"] = {"name": name, "settings": {name: settings}, "control": name == "open"}
        record["defence"] |= {"twin": twin, "twin_sha256": "sha of "}
    return record


def attack_on(folder: Path, tag: str, attack: str, level: float, seed: int = 0, **spec: Any) -> Path:
    """A finished attack on the classifier ``tag`` of :data:`LEAKS`."""
    name = "vgg16@synthfaces" + (f"+{tag}" if tag else "")
    target = {"card": name, "architecture": "vgg16", "sha256": f"sha of {tag}"}
    run = make(folder, attack, level, seed=seed, people=spec.pop("people", 24), **{"target_": None, **spec})
    edit(run, "run.json", lambda record: record["spec"].update(target=target))
    edit(run, "run.json", lambda record: record["spec"].pop("target_", None))
    edit(run, "run.json", lambda record: record.update(attacked=attacked(tag)))
    return run


def write_suite(folder: Path, tags: Mapping[str, Any] = LEAKS, seeds: int = 2) -> Path:
    """Every attack and the floor on every classifier, with these seeds."""
    for tag in tags:
        for seed in range(seeds):
            attack_on(folder / f"floor-{tag}-{seed}", tag, "floor", 0.05, seed)
            for attack, level in ATTACKS.items():
                attack_on(folder / f"{attack}-{tag}-{seed}", tag, attack, level - LEAKS[tag][0], seed)
    return folder


@pytest.fixture(scope="session")
def defended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A suite of defences; shared, so tests do not write into it."""
    folder = write_suite(tmp_path_factory.mktemp("defences"))
    with untouched(folder):
        yield folder
