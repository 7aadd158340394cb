"""Finished runs of known strength, to compare."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from untouched import untouched

from mibench.api import Estimate, MibenchError
from mibench.cli import cli
from mibench.metrics import estimates
from mibench.metrics.scoring import estimate_as_json
from mibench.reports.compare import PrintedComparison, compare

PEOPLE, SAMPLES = 16, 4


def make(
    folder: Path,
    attack: str,
    level: float,
    *,
    target: str = "vgg16",
    seed: int = 0,
    prior: str = "stylegan2",
    people: int = PEOPLE,
    first: int = 0,
    floor: str | None = None,
    settings: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
    truth: bool = True,
    side: int = 8,
    **spec: Any,
) -> Path:
    """A finished run whose success rises with ``level``; identities are equally hard for every attack."""
    from safetensors.torch import save_file

    (folder / "units").mkdir(parents=True)
    generator = np.random.default_rng([seed, len(attack), len(target), int(1000 * level)])
    hardness = np.random.default_rng(1).normal(size=people)
    identity = np.repeat(np.arange(first, first + people), SAMPLES)
    known = 1 / (1 + np.exp(2 - 5 * level - hardness[identity - first]))
    table = pd.DataFrame({"identity": identity, "sample": np.tile(np.arange(SAMPLES), people), "selected": True})
    table["hit1"] = generator.random(len(identity)) < known
    table["hit5"] = table["hit1"] | (generator.random(len(identity)) < known)
    table["knn_distance"] = 200 - 100 * known + 5 * generator.normal(size=len(identity))
    table["feature_distance"] = table["knn_distance"] / 300
    table["true_identity_error"] = 0.5 - 0.3 * known if truth else float("nan")
    table["true_identity_rank"] = np.where(generator.random(len(identity)) < known, 1.0, 9.0) if truth else float("nan")
    half = people // 2 * SAMPLES
    table["unit"] = (np.arange(len(identity)) >= half).astype(int)
    table["index"] = np.arange(len(identity)) - half * table["unit"]
    table["nearest_private"] = table["sample"] % 3
    table.to_csv(folder / "samples.csv", index=False)
    images = torch.from_numpy(generator.integers(0, 256, (len(identity), 3, side, side), dtype=np.uint8))

    def mean(name: str, values: pd.Series, better: bool) -> Estimate:
        shares = name.startswith("acc") or name.endswith("top1")
        return estimates.mean(
            name, values.astype(float), identity, proportion=shares, higher_is_better=better, extractor="judge"
        )

    found = {
        "acc1": mean("acc1", table["hit1"], True),
        "acc5": mean("acc5", table["hit5"], True),
        "knn_distance": mean("knn_distance", table["knn_distance"], False),
        "feature_distance": mean("feature_distance", table["feature_distance"], False),
        "true_identity_error": mean("true_identity_error", table["true_identity_error"], False),
        "true_identity_top1": mean("true_identity_top1", table["true_identity_rank"] == 1, True),
        "coverage": Estimate("coverage", level / 2, level / 3, level, n=people, higher_is_better=True),
        "frechet_judge": Estimate("frechet_judge", 90 - seed, 80, 99, n=people, higher_is_better=False),
    }
    if not truth:
        for name in ("true_identity_error", "true_identity_top1"):
            found[name] = replace(found[name], value=None, low=None, high=None, reason="nobody knows the truth")
    (folder / "metrics.json").write_text(json.dumps({name: estimate_as_json(each) for name, each in found.items()}))
    specification = {
        "attack": attack,
        "attack_settings": {"steps": 3, **(settings or {})},
        "dataset": "synthfaces",
        "dataset_digest": "d1",
        "target": {"card": f"{target}@synthfaces", "architecture": target, "sha256": f"sha of {target}"},
        "judge": {"card": "facenet112@synthfaces", "sha256": "sha of the judge"},
        "prior": {"card": f"{prior}@synthfaces", "architecture": prior, "sha256": f"sha of {prior}"},
        "protocol": {"name": "toy", "version": 1, "samples": SAMPLES, "identities": people, **(protocol or {})},
        "seed": seed,
        "precision": "float32",
        **spec,
    }
    record = {"status": "complete", "spec": specification, "floor": floor, "prior_queries_forward": 0}
    (folder / "run.json").write_text(json.dumps(record))
    for stem, forward, backward in (("state", 160, 0), ("units/000", 1600, 800), ("units/001", 1600, 800)):
        queries = {"queries_forward": forward, "queries_backward": backward}
        rows = {"state": slice(0, 0), "units/000": slice(0, half), "units/001": slice(half, None)}[stem]
        labels = torch.from_numpy(identity[rows])
        tensors = {"images": images[rows].clone(), "labels": labels, "confidence": torch.zeros(len(labels))}
        save_file(tensors, folder / f"{stem}.safetensors", metadata={"mibench": json.dumps(queries)})
        cost = {"seconds": 8.0, "peak_memory_bytes": 1_000_000 + forward}
        (folder / f"{stem}.json").write_text(json.dumps(cost))
    return folder


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two attacks and their floor on two targets, three seeds of each; shared, so tests do not write into it."""
    folder = tmp_path_factory.mktemp("suite")
    for target in ("vgg16", "ir152"):
        for seed in range(3):
            make(folder / f"floor-{target}-{seed}", "floor", 0.05, target=target, seed=seed)
            for attack, level in (("dmmia", 0.7), ("ppa", 0.6)):
                name = f"{attack}-{target}-{seed}"
                make(folder / name, attack, level, target=target, seed=seed, floor=f"floor-{target}-{seed}")
    with untouched(folder):
        yield folder


@pytest.fixture(scope="session")
def compared(suite: Path) -> PrintedComparison:
    return compare(suite)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *(str(argument) for argument in arguments)])


def refusal(*runs: Path, **options: Any) -> str:
    with pytest.raises(MibenchError) as caught:
        compare(list(runs), **options)
    return str(caught.value)


def edit(run: Path, file: str, change: Any) -> None:
    content = json.loads((run / file).read_text(encoding="utf-8"))
    change(content)
    (run / file).write_text(json.dumps(content))
