"""Trained weights: verified by sha256 before anything reads them, safetensors only, loaded strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from mibench import registry
from mibench.api import Access, AccessError, Card, Prior, Queries, Victim, WeightsFile, load_strictly, network_traits
from mibench.errors import MibenchError, StateDictMismatch
from mibench.metrics.extractors import JudgeExtractor, RegressorExtractor, Resize
from mibench.system.foreign_code import contained
from mibench.weights.answer_filters import apart, build_answers, why_less
from mibench.weights.cards import ARTEFACTS, CardFile
from mibench.weights.gradient_check import gradient_fault
from mibench.weights.prior_class import prior_class


def load_weights(file: CardFile) -> dict[str, Tensor]:
    """The tensors of a card, float32 (or integer), after their file's size and hash agreed with the card.

    Raises:
        MibenchError: missing, truncated, corrupt or swapped file, or numbers that are not finite; names the file, both
            hashes and the cure.
    """
    tensors = stored_tensors(file)
    # in the type they are used in: a number of float64 may be infinite there
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise MibenchError(
                f"weights of {file.name!r} are not finite: {name} in {file.weights_path} holds NaN or infinity",
                cure=_restore(file),
            )
    return tensors


def stored_tensors(file: CardFile) -> dict[str, Tensor]:
    """The tensors of a card in the types they are stored in, after their file's size and hash agreed with the card.

    Raises:
        MibenchError: as :func:`load_weights`, but for numbers that are not finite.
    """
    return _parsed(file, "weights", file.weights_path, file.card().weights)


def load_artefacts(file: CardFile) -> dict[str, Tensor]:
    """What a training left for analysis (``DEFENCE.NAME`` -> tensor, as stored), checked as weights are; often nothing.

    No run reads it, and it is no part of the contract with attacks.

    Raises:
        MibenchError: as :func:`stored_tensors`.
    """
    described = file.card().artefacts
    if described is None:
        return {}
    return _parsed(file, "artefacts", file.weights_folder / ARTEFACTS / described.file, described)


def check_weights(file: CardFile) -> None:
    """Refuse weights that are missing or not the ones on their card, before work whose end needs them."""
    _verified(file, "weights", file.weights_path, file.card().weights)


def _parsed(file: CardFile, what: str, path: Path, expected: WeightsFile) -> dict[str, Tensor]:
    content = _verified(file, what, path, expected)
    try:
        return dict(load(content))
    except SafetensorError as error:
        raise MibenchError(f"{path} is not a safetensors file ({error})", cure=_restore(file)) from error


def _restore(file: CardFile) -> str:
    """The cure for weights that are no good."""
    return "reinstall the package that ships it" if file.origin != "user" else "restore it or train it again"


def _verified(file: CardFile, what: str, path: Path, expected: WeightsFile) -> bytes:
    """The content of a file whose size and hash agree with its card.

    Raises:
        MibenchError: they do not agree, or it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MibenchError(
            f"{what} of {file.name!r} cannot be read: {path}: {error.strerror}", cure=_restore(file)
        ) from error
    got = hashlib.sha256(content).hexdigest()
    if got != expected.sha256 or len(content) != expected.bytes:
        raise MibenchError(
            f"{what} of {file.name!r} are not the ones on their card: {path} has sha256 {got} ({len(content)} bytes), "
            f"expected {expected.sha256} ({expected.bytes} bytes); corrupt or swapped file",
            cure=_restore(file),
        )
    return content


def misfit_message(mismatch: StateDictMismatch, *, name: str, architecture: str) -> str:
    """Why the weights of the card ``name`` do not fit their architecture, with the likely cause."""
    if mismatch.unexpected and all(key.startswith("module.") for key in mismatch.unexpected):
        cause = "the weights were saved from DataParallel: strip the prefix 'module.'"
    elif not mismatch.missing and not mismatch.unexpected:
        cause = "the card's arguments or classes (width, num_classes) are not those of the training"
    else:
        cause = "the card names another architecture than the one that was trained"
    return f"weights of {name!r} do not fit {architecture}: {mismatch.summary()}. Likely cause: {cause}"


def build_network(file: CardFile) -> tuple[nn.Module, Card]:
    """The network of a target, judge or regressor card with its weights: float32, eval, frozen, on the CPU."""
    network, card, _ = _built(file)
    return network, card


def _built(file: CardFile) -> tuple[nn.Module, Card, dict[str, dict[str, Tensor]]]:
    """The same, and the weights of its filters by name."""
    card = file.card()
    tensors, learnt = apart(load_weights(file))
    named = () if card.defence is None else card.defence.filters
    if unnamed := [name for name in learnt if name not in named]:
        raise MibenchError(
            f"the weights of {file.name!r} hold those of a filter {unnamed[0]!r}, which its card does not name",
            cure="restore the card",
        )
    try:
        network = built_network(card.kind, card.architecture, card.arguments, card.classes, tensors, name=card.name)
    except TypeError as error:
        raise MibenchError(
            f"{file.path}: {card.architecture} does not take these arguments ({error})", cure="correct the card"
        ) from error
    return network, card, learnt


def built_network(
    kind: str,
    architecture: str,
    arguments: Mapping[str, object],
    classes: int | None,
    tensors: Mapping[str, Tensor],
    *,
    name: str | None = None,
) -> nn.Module:
    """A network with weights, loaded strictly: float32, eval, frozen, on the CPU.

    Args:
        kind, architecture: registered.
        arguments: that build it.
        classes: how many it tells apart; None: it is no classifier.
        tensors: its state.
        name: of the card, for messages.
    """
    own = dict(arguments) | ({} if classes is None else {"num_classes": classes})
    built = registry.load(kind, architecture)
    with contained(f"{kind} {architecture!r}", "when it is built", seeds=True):
        network: nn.Module = built(**own)
    message = partial(misfit_message, name=name or architecture, architecture=architecture)
    load_strictly(network, tensors, message=message)
    return network.eval().requires_grad_(False)


def max_access(card: Card) -> Access:
    """The most that a target can give: what its card says, and no more than its kind of network and its filters can."""
    kind = network_traits(registry.load(card.kind, card.architecture)).access
    answers = build_answers(card)
    filtered = Access.GRADIENTS if answers is None else answers.grants
    return min(Access[card.access.upper()], Access[kind.upper()], filtered)


def build_victim(file: CardFile, access: Access, device: torch.device) -> Victim:
    """The target of a run behind an access level, its answers through the filters of its card.

    Raises:
        AccessError: its network cannot give as much (an ONNX file has no gradients, other code may lose them), or its
            answers are filtered: a white-box attacker ignores filters.
    """
    network, card, learnt = _built(file)
    if card.classes is None:
        raise MibenchError(f"{file.path}: a target needs the field 'classes'", cure="correct the card")
    if (cause := why_less(card, access)) is not None:
        raise AccessError(f"{access.word} were asked for, but {cause}")
    if access > max_access(card):
        raise AccessError(
            f"target {card.name!r} can give no more than {max_access(card).word}, {access.word} was asked for",
            cure="choose an attack that needs no more",
        )
    network.to(device)
    victim = Victim(
        network,
        image=card.image,
        num_classes=card.classes,
        access=access,
        name=card.name,
        answer=build_answers(card, learnt),
    )
    if access >= Access.GRADIENTS and (fault := gradient_fault(victim, device)) is not None:
        raise AccessError(
            f"target {card.name!r} gives no usable gradient: {fault}", cure="choose an attack that needs only scores"
        )
    victim.queries = Queries()  # a run counts from here
    return victim


def build_prior(file: CardFile, arguments: Mapping[str, object], device: torch.device) -> Prior:
    """The generative prior of a run; ``arguments`` are the card's, with the run's ``prior.*`` settings on top."""
    card = file.card()
    kind = prior_class(card.architecture)
    try:
        with contained(f"prior {card.name!r}", "when it is built", seeds=True):
            prior = kind.build(dict(arguments), load_weights(file), card.image, name=card.name)
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MibenchError(f"prior {card.name!r} does not accept its arguments or weights: {reason}") from error
    return prior.to(device)


def build_classifier_extractor(
    file: CardFile, device: torch.device, cache: Path | None, resize: Resize = "low2high"
) -> JudgeExtractor:
    """A judge, or the attacked model as the referee looks at it: stored images in, features and logits out.

    Filters of answers are left out: the referee looks at the network itself.
    """
    network, card = build_network(file)
    return JudgeExtractor(
        network,
        card.image,
        name=card.name,
        resize=resize,
        device=device,
        weights_sha256=card.weights.sha256,
        cache=cache,
    )


def build_regressor(file: CardFile, device: torch.device) -> RegressorExtractor:
    """A regressor from images to identity vectors."""
    network, card = build_network(file)
    return RegressorExtractor(network, card.image, name=card.name, device=device, weights_sha256=card.weights.sha256)
