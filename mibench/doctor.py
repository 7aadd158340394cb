"""What ``mibench doctor`` looks at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mibench.data.fingerprint import what_changed
from mibench.downloads import catalogue as known
from mibench.downloads.download import Fetcher
from mibench.errors import MibenchError
from mibench.system import provenance
from mibench.system.devices import choose_device, total_memory
from mibench.system.paths import home
from mibench.system.progress import Reporter
from mibench.weights import cards, load
from mibench.weights.accuracy import MEASURED_TOLERANCE, measure_accuracy
from mibench.weights.minimum_accuracy import weakness

from . import registry

LEAST_DISK = 1e9  # bytes; a run takes tens of megabytes


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    detail: str


def examine(*, full: bool = False, reporter: Reporter | None = None) -> list[Finding]:
    """Everything that can be checked here; ``full`` measures classifiers again."""
    findings = [*_machine(), *_weights(), *_fetched()]
    if full:
        findings += _accuracies(reporter or Reporter())
    return findings


def _machine() -> Iterator[Finding]:
    for name, number in provenance.versions().items():
        yield Finding(name, number is not None, number or "not installed")
    device = choose_device("auto")
    yield Finding("device", True, f"{device} ({provenance.device_name(device)})")
    yield Finding("threads", True, f"{torch.get_num_threads()} of {os.cpu_count()} CPUs")
    if (memory := total_memory(torch.device("cpu"))) is not None:
        yield Finding("memory", memory > 2e9, f"{memory / 1e9:.1f} GB")
    folder = home()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    yield Finding("disk", free > LEAST_DISK, f"{free / 1e9:.1f} GB free at {folder}")
    yield Finding("MIBENCH_HOME", os.access(folder, os.W_OK), f"{home()}{'' if home().exists() else ' (not made yet)'}")
    catalogue = registry.catalogue()
    for kind in ("attack", "target", "dataset"):
        yield Finding(f"{kind}s", bool(catalogue[kind]), ", ".join(catalogue[kind]) or "none is installed")


def _weights() -> Iterator[Finding]:
    known = cards.all_cards()
    if not known:
        yield Finding("weights", False, f"no card of trained weights is installed; train some into {home()}")
    for card in known.values():
        try:
            tensors = load.load_weights(card)
            load.load_artefacts(card)
        except MibenchError as error:
            yield Finding(card.name, False, str(error))
            continue
        numbers = sum(tensor.numel() for tensor in tensors.values())
        size = card.card().weights.bytes
        if (owner := cards.hides_shipped(card)) is not None:
            yield Finding(card.name, False, f"{card.path} hides the one that {owner} ships; give it a tag or move it")
            continue
        if card.kind in ("target", "judge") and (weak := weakness(card.card())) is not None:
            yield Finding(card.name, False, f"{weak}; runs refuse it")
            continue
        yield Finding(card.name, True, f"{card.kind}, {numbers:,} numbers, {size / 1e6:.2f} MB, sha256 agrees")


def _fetched() -> Iterator[Finding]:
    """Files of `mibench fetch`: those that are here, each by its hash."""
    fetcher = Fetcher(offline=True)
    assets = [
        asset for asset in known.catalogue().values() if isinstance(asset, known.Asset) and asset.path_in().exists()
    ]
    if not assets:
        yield Finding("assets", True, f"none in {known.assets_folder()}; `mibench fetch` lists what there is")
    for asset in assets:
        try:
            (outcome,) = fetcher.fetch([asset])
        except MibenchError as error:
            yield Finding(f"asset {asset.name}", False, str(error))
            continue
        yield Finding(f"asset {asset.name}", True, f"{outcome.path}, {(outcome.size or 0) / 1e6:.2f} MB, sha256 agrees")


def _accuracies(reporter: Reporter) -> Iterator[Finding]:
    device = choose_device("auto")
    for file in cards.all_cards().values():
        if file.kind not in ("target", "judge"):
            continue
        card = file.card()
        claimed = (card.measured or {}).get("test_accuracy")
        try:
            dataset_settings = (card.recipe or {}).get("dataset")  # the settings that it was trained with
            dataset = registry.load("dataset", card.dataset)(
                **(dataset_settings if isinstance(dataset_settings, dict) else {})
            )
            if card.dataset_digest not in (None, dataset.digest):
                changed = what_changed(str(card.dataset_digest), dataset.digest)
                raise MibenchError(f"it was trained on another version of {card.dataset}: {changed}")
            classifier = load.build_classifier_extractor(file, device, cache=None)
            images = dataset.seen_by(file.kind).private("test", card.image.size)
        except MibenchError as error:
            yield Finding(f"{file.name} accuracy", False, f"cannot be measured: {error}")
            continue
        measured = measure_accuracy(classifier, images, device=device, reporter=reporter).value
        agrees = claimed is None or abs(measured - float(claimed)) <= MEASURED_TOLERANCE
        card_says = "nothing" if claimed is None else f"{float(claimed):.4f}"
        yield Finding(f"{file.name} accuracy", agrees, f"{measured:.4f} here, the card says {card_says}")
