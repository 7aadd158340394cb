"""The attacked model: from what a person names to a card with measured accuracy."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mibench import registry
from mibench.api import Access, CardName, TrainedWeights, Victim, WeightsContents, load_strictly, network_traits
from mibench.errors import MibenchError
from mibench.metrics.extractors import hash_weights
from mibench.system import file_type
from mibench.system.canonical import hash_of, plain
from mibench.system.paths import home
from mibench.system.progress import Reporter, stretch
from mibench.weights import load
from mibench.weights.cards import CardFile, all_cards
from mibench.weights.gradient_check import gradient_fault
from mibench.weights.importing.reader import read_weights
from mibench.weights.importing.torchscript_check import check_program
from mibench.weights.importing.weights_format import Format, recognise, refuse_folder
from mibench.weights.minimum_accuracy import percent
from mibench.weights.save import store_weights

from .data import AuditData, class_names
from .preprocessing import DOUBTFUL, MUCH_BETTER, ModelAccuracy, advice, least_accuracy, logits_of, measure
from .request import AuditRequest


@dataclass(frozen=True)
class AuditTarget:
    """The model as a target: its card, what it reaches, the most it can give, and what is worth knowing about it."""

    file: CardFile
    accuracy: ModelAccuracy
    access: Access
    notes: tuple[str, ...]
    fault: str | None = None  # why its gradient is of no use, where it should have one


@dataclass(frozen=True)
class _Taken:
    """A model that was taken in, not stored yet."""

    card_name: CardName
    trained: TrainedWeights
    network: nn.Module
    sources: dict[str, str]  # what was read -> sha256


def architecture_of(model: str) -> str:
    """``module``, ``onnx`` or ``torchscript``, by the name and the first bytes.

    Raises:
        MibenchError: a file that is none of them, or no file at all.
    """
    path = Path(model)
    if path.is_dir():
        refuse_folder(path)
    if not path.is_file():
        if ":" in model and not model.endswith((".onnx", ".pt", ".pth")):
            return "module"
        raise MibenchError(f"--model {model}: there is no such file, and package.module:build has a colon")
    if path.suffix == ".onnx":
        with path.open("rb") as file:
            head = file.read(file_type.PAGE)
        if file_type.is_page(head):
            raise MibenchError(f"--model {model} is {file_type.page_reason(head)}")
        return "onnx"
    if _is_script(path):
        check_program(path)
        return "torchscript"
    kind = recognise(path)  # refuses pages, archives and pictures by what they are
    if kind is Format.PICKLE:
        read_weights(path)  # refuses what is no file of weights either
    raise MibenchError(
        f"--model {model} is a file of weights ({kind.value}), not a model",
        cure=f"name the code that builds it, --model package.module:build --weights {model}",
    )


def _is_script(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def take_in(request: AuditRequest, material: AuditData, device: torch.device, reporter: Reporter) -> AuditTarget:
    """Build the model, measure it, and write its card; a model that was taken in before is found again.

    Raises:
        MibenchError: it does not load, does not fit the data, or does no better than chance: nothing is written then.
    """
    with stretch(reporter, "building the model and showing it its first images"):
        taken = _taken(request, material)
    for note in taken.trained.notes:
        reporter.say(f"model: {note}")
    known = all_cards().get(str(taken.card_name))
    names = class_names(material.dataset)
    logits = logits_of(taken.network, device)
    image = taken.trained.image
    if known is not None and known.kind == "target" and (measured := known.card().measured):
        accuracy = ModelAccuracy(
            float(measured["test_accuracy"]),
            int(measured["test_images"]),
            float(measured["train_accuracy"]),
            int(measured["train_images"]),
        )
        reporter.say(f"model: {taken.card_name!s} was taken in before")
    else:
        with stretch(reporter, "measuring the model"):
            accuracy = measure(logits, image, material.dataset, reporter.update)
    classes = material.counts["people"]
    least = least_accuracy(classes) if request.min_accuracy is None else request.min_accuracy
    reached = f"{percent(accuracy.test)} of {accuracy.test_images:,} held-out images right"
    reached += f" (chance {percent(1 / classes)})"
    notes = []
    if accuracy.test < max(least, DOUBTFUL):
        with stretch(reporter, "trying other ways to feed the model"):
            better = advice(logits, image, material.dataset, channel_order=request.channel_order, names=names)
        if accuracy.test < least:
            raise _refusal(reached, f"{percent(least)} is the least to go on with: ", better)
        if better is not None and better[1] >= accuracy.test + MUCH_BETTER and request.min_accuracy is None:
            raise _refusal(reached, "", better)
        if better is not None:
            notes.append(f"with {better[0]} it would reach {better[1]:.1%} of a sample: is its preprocessing right?")
    reporter.say(f"model: {reached}")
    with stretch(reporter, "trying the model's gradient"):
        access, fault = _access(taken, device)
    if fault is not None:
        notes.append(f"no usable gradient: {fault}; it is attacked by its scores, as with --access scores")
    for note in notes:
        reporter.say(f"model: {note}")
    file = known or _store(request, material, taken, accuracy, access)
    access = min(access, load.max_access(file.card()))
    return AuditTarget(file, accuracy, access, (*taken.trained.notes, *notes), fault)


def _access(taken: _Taken, device: torch.device) -> tuple[Access, str | None]:
    """The most that the model can give, and why that is no gradient although its kind has one."""
    trained = taken.trained
    most = Access[network_traits(registry.load("target", trained.architecture)).access.upper()]
    if most < Access.GRADIENTS or trained.classes is None:
        return most, None
    network = taken.network.to(device)
    victim = Victim(network, image=trained.image, num_classes=trained.classes, access=most, name="the model")
    fault = gradient_fault(victim, device)
    return (most, None) if fault is None else (Access.SCORES, fault)


def _refusal(reached: str, least: str, better: tuple[str, float] | None) -> MibenchError:
    if better is None:
        causes = (
            "no usual mean, std, range, order of channels or of classes does much better on a sample; likely causes: "
            "another --size than it was trained with, a private normalisation, weights of other people"
        )
    else:
        flags, share = better
        causes = f"with {flags} it reaches {share:.1%} of a sample: is that how it was trained?"
        if "--classes FILE" in flags:
            causes += " (FILE: the names of the directories in the model's order of classes, one a line)"
    return MibenchError(f"the model gets {reached}", cure=f"{least}{causes} (--min-accuracy 0 goes on anyway)")


def _taken(request: AuditRequest, material: AuditData) -> _Taken:
    architecture = architecture_of(request.model)
    settings: dict[str, object] = {
        "classes": material.counts["people"],
        "size": request.size,
        "channel_order": request.channel_order,
        "outputs": list(request.outputs),
    }
    settings |= {n: v for n in ("range", "mean", "std") if (v := getattr(request, n))}
    files: list[WeightsContents] = []
    if architecture == "module":
        settings |= {"factory": request.model, "arguments": request.settings_of("model"), "features": request.features}
        files = [read_weights(request.weights)] if request.weights is not None else []
    else:
        if request.weights is not None:
            raise MibenchError(f"--model {request.model} holds its weights", cure="drop --weights")
        if request.features or request.settings_of("model"):
            raise MibenchError("--features and --set model.* belong to a model in code; a file has its layers sealed")
        files = [_whole(Path(request.model), architecture)]
    try:
        trained: TrainedWeights = registry.load("importer", f"target:{architecture}")(architecture, files, settings)
    except MibenchError as error:
        if architecture == "module":  # these lines name the factory or the weights already
            raise
        raise error.of(f"--model {request.model}: ") from error
    network: nn.Module = registry.load("target", architecture)(num_classes=trained.classes, **trained.arguments)
    load_strictly(
        network,
        trained.weights,
        message=partial(load.misfit_message, name=request.model, architecture=architecture),
    )
    network.eval().requires_grad_(False)
    tag = hash_of([hash_weights(network), plain(trained.arguments), plain(trained.image), material.dataset.digest])[:8]
    sources = {file.file: file.sha256 for file in files}
    return _Taken(CardName(architecture, request.dataset, tag), trained, network, sources)


def _whole(path: Path, container: str) -> WeightsContents:
    """A file as it is, as one uint8 tensor."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}") from error
    if not content:
        raise MibenchError(f"{path} is empty", cure="export the model again")
    tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return WeightsContents(
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        container=container,
        tensors={"file": tensor},
    )


def _store(
    request: AuditRequest, material: AuditData, taken: _Taken, accuracy: ModelAccuracy, access: Access
) -> CardFile:
    trained = taken.trained
    store_weights(
        taken.card_name,
        "target",
        trained,
        home(),
        dataset_digest=material.dataset.digest,
        licence="the owner's",
        recipe={"command": "mibench audit", "model": request.model, "files": dict(taken.sources)},
        measured=accuracy.measured(),
        access=access.word,
    )
    return all_cards()[str(taken.card_name)]
