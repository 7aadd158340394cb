"""The second half of a run: stored reconstructions in, ``samples.csv`` and ``metrics.json`` out.

It reads the run directory and nothing of the attack, so ``mibench score`` can do it again at any time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mibench import registry
from mibench.api import Card, MibenchError
from mibench.data.preview import strip_png
from mibench.data.split import GroundTruth
from mibench.metrics import DEFAULT_METRICS, METRICS
from mibench.metrics.extractors import InceptionExtractor
from mibench.metrics.identity import IdentityTruth
from mibench.metrics.scoring import Reconstructions, Scores, score
from mibench.runs.attack import Execution, note_varying
from mibench.runs.plan import Plan
from mibench.runs.store import RunDir, unit_stem
from mibench.system.devices import deterministic
from mibench.system.files import atomic_write, write_json
from mibench.system.paths import home
from mibench.weights import load


def judge_units(plan: Plan, folder: RunDir, machine: Execution, further: Sequence[str] = ()) -> Scores:
    """Score the stored units of a run and write the table and the metrics. Called inside ``folder.writing()``.

    ``further``: groups of metrics beside those of the run; they stay with it when it is scored again.
    """
    protocol, dataset, device = plan.spec.protocol, plan.dataset.seen_by("judge"), machine.device
    cache = home() / "cache" / "features"
    names = metric_groups(plan, folder, further)
    with deterministic(device, "float32") as varying:
        machine.reporter.start("scoring")
        try:
            reconstructions = load_units(plan, folder)
            size = int(reconstructions.images.shape[-1])
            controls = min(protocol.public_control, dataset.public_count()) if protocol.public_control else 0
            judge = load.build_classifier_extractor(plan.judge, device, cache, protocol.judge_resize)
            inception, reason = _inception(device, cache)
            truth = _truth(plan, device)
            second = None
            if plan.second_judge is not None:
                second = load.build_classifier_extractor(plan.second_judge, device, cache, protocol.judge_resize)
            scores = score(
                reconstructions,
                private=dataset.private("train", judge.image.size, protocol.labels),
                judge=judge,
                second_judge=second,
                per_identity=protocol.samples,
                private_native=dataset.private("train", size, protocol.labels) if inception is not None else None,
                target=load.build_classifier_extractor(plan.target, device, None),
                truth=truth,
                inception=inception,
                inception_reason=reason,
                public=dataset.public(size, controls) if controls else None,
                private_test=dataset.private("test", size, protocol.labels),
                portraits=dataset.portraits(size, protocol.samples, protocol.labels) if truth is not None else None,
                metrics=names,
                registry={
                    name: registry.load("metric", name) for name in registry.names("metric") if name not in METRICS
                },
                seed=plan.spec.seed,
                progress=machine.reporter.update,
            )
        finally:
            machine.reporter.stop()
            note_varying(folder, varying)
    atomic_write(folder.path / "samples.csv", scores.samples.to_csv(index=False, lineterminator="\n").encode())
    write_json(folder.path / "metrics.json", scores.as_json())
    folder.update_record(metrics=[dataclasses.asdict(info) for info in scores.infos])
    if diagnostics := [name for name in names if name not in (*(protocol.metrics or DEFAULT_METRICS), "second-judge")]:
        folder.update_record(diagnostics=diagnostics)
    if isinstance(dataset, GroundTruth):  # synthetic data: no real people
        write_images(folder, reconstructions, scores)
    for note in scores.notes:
        machine.reporter.say(note)
    return scores


def metric_groups(plan: Plan, folder: RunDir, further: Sequence[str] = ()) -> tuple[str, ...]:
    """What is measured of a run: its protocol's metrics and diagnostics, what was measured before, and ``further``."""
    protocol = plan.spec.protocol
    before = folder.record().get("diagnostics", [])
    own = ("second-judge",) if protocol.second_judge is not None else ()
    groups = (*(protocol.metrics or DEFAULT_METRICS), *own, *protocol.diagnostics, *before, *further)
    return tuple(dict.fromkeys(groups))


def write_images(folder: RunDir, reconstructions: Reconstructions, scores: Scores) -> None:
    """``images/<identity>.png``: the selected reconstructions of an identity side by side, the adversary's best first.

    Pixels are exactly the stored ones, so numbers measured on the files are the numbers of the run.
    """
    row_of = {
        (unit, index): row
        for row, (unit, index) in enumerate(
            zip(reconstructions.units.tolist(), reconstructions.index.tolist(), strict=True)
        )
    }
    chosen = scores.samples[scores.samples["selected"]].sort_values(["identity", "sample"])
    for identity, rows in chosen.groupby("identity"):
        order = [row_of[unit, index] for unit, index in zip(rows["unit"], rows["index"], strict=True)]
        atomic_write(folder.path / "images" / f"{identity:04d}.png", strip_png(reconstructions.images[order]))


def load_units(plan: Plan, folder: RunDir) -> Reconstructions:
    """Every unit of a run.

    Raises:
        MibenchError: a unit is missing or damaged; says to continue the run first.
    """
    check_units(plan, folder)
    stored: list[tuple[int, Tensor, Tensor, Tensor]] = []
    for index, identities in enumerate(plan.units):
        tensors, _ = folder.load(unit_stem(index))
        _check_unit(tensors, identities, folder.tensors_path(unit_stem(index)))
        stored.append((index, tensors["images"], tensors["labels"], tensors["confidence"]))
    return Reconstructions.of(stored)


def check_units(plan: Plan, folder: RunDir) -> None:
    """Refuse a run of which a unit is missing or damaged.

    Raises:
        MibenchError: names the unit; says to continue the run first.
    """
    for index in range(len(plan.units)):
        if not folder.intact(unit_stem(index)):
            raise MibenchError(
                f"unit {index} of {folder.path} is missing or damaged",
                cure=(
                    f"continue the run first: mibench run --config {folder.path / 'config.yaml'} --output "
                    f"{folder.path.parent}"
                ),
            )


def _check_unit(tensors: Mapping[str, Tensor], identities: Sequence[int], file: Path) -> None:
    """Refuse a file that is whole and yet not this unit: exchanged with another one, or copied from another run."""
    lacking = [name for name in ("images", "labels", "confidence") if name not in tensors]
    if lacking or set(tensors["labels"].tolist()) != set(identities):
        raise MibenchError(
            f"{file} does not hold the reconstructions of identities {identities[0]} to {identities[-1]}",
            cure="delete it and run the same command again",
        )


def _inception(device: torch.device, cache: Path) -> tuple[InceptionExtractor | None, str | None]:
    try:
        return InceptionExtractor(device=device, cache=cache), None
    except MibenchError as error:
        return None, str(error)


def _truth(plan: Plan, device: torch.device) -> IdentityTruth | None:
    if plan.regressor is None or not isinstance(plan.dataset, GroundTruth):
        return None
    return IdentityTruth.of(
        plan.dataset,
        load.build_regressor(plan.regressor, device),
        regressor=plan.regressor.name,
        error=_coordinate_errors(plan.cards["regressor"]),
    )


def _coordinate_errors(card: Card) -> Tensor | None:
    """The regressor's own error per coordinate, from its card."""
    measured = card.measured or {}
    errors = measured.get("rmse_per_coordinate")
    return None if errors is None else torch.tensor(errors, dtype=torch.float32)
