"""``mibench import``: from foreign files to a card, by way of the importer that knows their format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from mibench import registry
from mibench import settings as config
from mibench.api import Card, CardName, Importer, Prior, TrainedWeights, WeightsContents
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.metrics.extractors import JudgeExtractor
from mibench.settings import Layer
from mibench.system.devices import choose_device
from mibench.system.files import check_writable
from mibench.system.paths import home
from mibench.system.progress import Reporter
from mibench.weights import cards
from mibench.weights.accuracy import measure_accuracy
from mibench.weights.save import refuse_other_card, save_weights, to_safetensors

from .checkpoint_card import IMPORT_SCOPES, Import, Origin
from .network_loading import check_numbers, fitted
from .reader import read_weights, unwrapped
from .requested_name import OF_A_DATASET, RequestedName, parse
from .text import listed

CLASSIFIERS = ("target", "judge")  # what has a test accuracy


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The stored card, whether it was there already, sentences about it and (worse) doubts."""

    path: Path
    card: Card
    unchanged: bool = False
    remarks: Sequence[str] = ()
    doubts: Sequence[str] = ()


def import_weights(request: Import, *, device: str = "auto", reporter: Reporter | None = None) -> Imported:
    """Read, convert, load strictly, measure, store. Nothing is written before everything is known to be right.

    Raises:
        MisfitError: the weights are another network's; has every key.
        MibenchError: any other mistake in the input.
    """
    wanted = parse(request.wanted)
    for scope in request.settings:
        if scope not in IMPORT_SCOPES:
            raise MibenchError(registry.unknown("scope of settings", scope, IMPORT_SCOPES))
    importer = find_importer(wanted)
    chosen = choose_device(device)
    target = wanted.target
    if request.sha256 and len(request.sha256) != len(request.files):
        raise MibenchError(
            f"{len(request.files)} files and {len(request.sha256)} --sha256", cure="give one for each file"
        )
    if request.reported is not None and not 1 < request.reported <= 100:
        raise MibenchError(f"--reported is a test accuracy in percent, such as 91.16; got {request.reported:g}")
    shelf = request.output or home()
    check_writable(shelf / "cards", shelf / "weights")
    _existing(wanted, request.output)  # a name whose files are another card's is refused here
    hashes = dict(zip(request.files, request.sha256, strict=False))
    files: Sequence[WeightsContents] = [read_weights(path, sha256=hashes.get(path)) for path in request.files]
    files, trained, network = _taken_in(wanted, importer, files, request.settings.get("import", {}))
    dataset, absence = _dataset(wanted, request.settings.get("dataset", {}))
    _check_classes(wanted, trained, dataset, target)
    content = to_safetensors(wanted.name, trained.weights)
    digest = hashlib.sha256(content).hexdigest()
    before = _existing(wanted, request.output)
    if before is not None and not request.replace:
        if before.card().weights.sha256 == digest:
            return Imported(path=before.path, card=before.card(), unchanged=True)
        tag = "" if target else f"give these a tag of their own (--as {request.wanted.partition('+')[0]}+NAME), or "
        raise MibenchError(
            f"{wanted.name!r} is there already with other weights ({before.path})",
            cure=f"{tag}replace them with --replace",
        )
    accuracy = None
    if dataset is not None and wanted.kind in CLASSIFIERS and isinstance(network, nn.Module):
        try:
            accuracy = measure_accuracy(
                JudgeExtractor(network, trained.image, name=wanted.name, device=chosen),
                dataset.seen_by(wanted.kind).private("test", trained.image.size),
                device=chosen,
                reporter=reporter or Reporter(),
            )
        except MibenchError as error:
            if request.settings.get("dataset"):
                raise
            absence = str(error)
    made = Origin(request=request, wanted=wanted, files=files, trained=trained, target=target)
    card, doubts = made.card(content, dataset, accuracy)

    def unchanged() -> None:  # since it was read: measuring takes a while
        hashes = [file and file.card().weights.sha256 for file in (before, _existing(wanted, request.output))]
        if hashes[1] not in (hashes[0], digest):
            raise MibenchError(
                f"another process has written {wanted.name!r} meanwhile", cure="look at it, then import again"
            )

    path, card = _shelved(card, content, shelf, before, unchanged)
    remarks = list(trained.notes)
    remarks += [
        f"{file.file} holds other weights too ({', '.join(file.others)}): {file.container} was taken; "
        f"{file.file}::{file.others[0]} names another"
        for file in files
        if file.others
    ]
    if absence is not None and accuracy is None:
        remarks.append(f"test accuracy not measured: {absence}")
    return Imported(path=path, card=card, remarks=remarks, doubts=doubts)


def _taken_in(
    wanted: RequestedName, importer: Importer, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> tuple[Sequence[WeightsContents], TrainedWeights, nn.Module | Prior]:
    """The files as they fit, what the importer makes of them, and the network.

    Where they do not fit and all keys of a file begin alike (``net.``), as training frameworks wrap a network, they are
    tried without that beginning.
    """
    try:
        trained = importer(wanted.architecture, files, settings)
        check_numbers(trained.weights, listed(file.file for file in files))
        return files, trained, fitted(wanted, trained, importer, files)
    except MibenchError as error:
        shorter = [unwrapped(file) for file in files]
        if len(files) != 1 or shorter[0] is files[0]:
            raise
        try:
            return _taken_in(wanted, importer, shorter, settings)
        except MibenchError:
            raise error from None


def _shelved(
    card: Card, content: bytes, folder: Path, before: cards.CardFile | None, check: Callable[[], None]
) -> tuple[Path, Card]:
    """Write the pair. Weights that replace others get another file name, so that the old pair stays whole until the new
    card takes its place; then the old file goes."""
    old = before.weights_path if before is not None and before.weights_folder == folder / "weights" else None
    changed = before is not None and before.card().weights.sha256 != card.weights.sha256
    if old is not None and changed and old.name == card.weights.file:
        name = f"{CardName.parse(card.name).stem}-{card.weights.sha256[:8]}.safetensors"
        card = replace(card, weights=replace(card.weights, file=name))
    path = save_weights(card, content, folder, check=check)
    if old is not None and old.name != card.weights.file:
        old.unlink(missing_ok=True)
    return path, card


def find_importer(wanted: RequestedName) -> Importer:
    """``target:resnet18`` if a catalogue has it, else ``target``."""
    known = registry.names("importer")
    for name in (f"{wanted.kind}:{wanted.architecture}", wanted.kind):
        if name in known:
            importer: Importer = registry.load("importer", name)
            return importer
    raise MibenchError(
        f"nothing here knows the released formats of the {wanted.kind} {wanted.architecture!r} "
        f"(importers: {', '.join(known) or 'none is installed'})"
    )


def _dataset(wanted: RequestedName, settings: Mapping[str, object]) -> tuple[IdentitySplit | None, str | None]:
    """The data set of a classifier, or why it cannot be had; asked for by settings, it must be there."""
    if wanted.kind not in OF_A_DATASET:
        if settings:
            raise MibenchError(f"a {wanted.kind} is not measured on its data set", cure="drop --set dataset.*")
        return None, None
    try:
        kind = registry.load("dataset", wanted.dataset)
        dataset, _ = config.resolve(kind, [Layer("--set", settings)], scope="dataset")
    except MibenchError as error:
        if settings:
            raise
        return None, str(error)
    return dataset, None


def _check_classes(
    wanted: RequestedName, trained: TrainedWeights, dataset: IdentitySplit | None, target: CardName | None
) -> None:
    """The right number of classes: the data set's, or those of the target that a prior is made against."""
    if dataset is not None and trained.classes is not None and trained.classes != dataset.num_classes:
        raise MibenchError(
            f"these weights have {trained.classes} classes, {dataset.name} has {dataset.num_classes}: another data "
            "set, or other settings of it (--set dataset.NAME=VALUE)"
        )
    against = cards.all_cards().get(str(target)) if target else None
    classes = trained.arguments.get("num_classes")
    if against is not None and classes is not None and against.card().classes not in (None, classes):
        raise MibenchError(
            f"this {wanted.architecture} was made against {classes} classes, {str(target)!r} has "
            f"{against.card().classes}",
            cure="name its own target after the +",
        )


def _existing(wanted: RequestedName, output: Path | None) -> cards.CardFile | None:
    """The card that has this name, or this place, already."""
    folder = output or home()
    path = folder / "cards" / f"{wanted.card_name.stem}.yaml"
    refuse_other_card(wanted.card_name, folder)
    if path.is_file():
        content = config.read_yaml(path)
        return cards.CardFile(wanted.name, str(content.get("kind")), path, folder / "weights", "user", content)
    return cards.all_cards().get(wanted.name) if output is None else None
