"""Writing a set of weights: the safetensors file, then the card that vouches for it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict, Unpack

from safetensors.torch import save
from torch import Tensor

from mibench.api import Card, CardDefence, CardName, TrainedWeights, WeightsFile
from mibench.errors import MibenchError
from mibench.records import AccessName
from mibench.settings import read_yaml
from mibench.system.file_lock import held
from mibench.system.files import atomic_write, write_error
from mibench.system.tensor_files import METADATA_KEY
from mibench.system.text_files import shown
from mibench.weights.cards import ARTEFACTS, write_card

SHELF_PATIENCE = 60.0  # seconds that a process waits for another one that writes weights; they are written in less


class CardFacts(TypedDict, total=False):
    """What a card says besides what the weights themselves say; see :class:`~mibench.api.Card`."""

    dataset_digest: str | None
    licence: str
    recipe: Mapping[str, object]
    reported: Mapping[str, Any] | None
    measured: Mapping[str, Any] | None
    access: AccessName
    defence: CardDefence | None
    notes: str | None


def store_weights(
    name: CardName, kind: str, trained: TrainedWeights, folder: Path, **facts: Unpack[CardFacts]
) -> tuple[Path, Card]:
    """Write ``<folder>/weights/<stem>.safetensors`` and ``<folder>/cards/<stem>.yaml``.

    Artefacts for analysis go to ``<folder>/weights/artefacts/<stem>.safetensors``.

    Args:
        name: of the card.
        kind: target, judge, regressor, prior or backbone.
        trained: the weights, with what a recipe or an importer says of them.
        folder: ``$MIBENCH_HOME`` or a folder of one's own.
        facts: fields of the card; ``measured`` and ``notes`` are those of ``trained`` where they are not given.

    Returns:
        The card's path and the card.

    Raises:
        MibenchError: a folder that cannot be written.
    """
    content = to_safetensors(str(name), trained.weights)
    card = describe(name, kind, trained, content, **facts)
    artefacts = to_safetensors(str(name), trained.artefacts) if trained.artefacts else None
    if artefacts is not None:
        card = dataclasses.replace(card, artefacts=_file(name, artefacts))
    return save_weights(card, content, folder, artefacts=artefacts), card


def _file(name: CardName, content: bytes) -> WeightsFile:
    return WeightsFile(f"{name.stem}.safetensors", hashlib.sha256(content).hexdigest(), len(content))


def refuse_other_card(name: CardName, folder: Path) -> None:
    """Refuse a name whose files are another card's: ``a@b+c_d`` and ``a@b_c+d``, or upper and lower case on some disks.

    Raises:
        MibenchError: says whose they are.
    """
    path = folder / "cards" / f"{name.stem}.yaml"
    if path.is_file() and (other := read_yaml(path).get("name")) != str(name):
        raise MibenchError(
            f"{path} is the card of {shown(other)}",
            cure=f"choose another tag for {str(name)!r}",
        )


def describe(name: CardName, kind: str, trained: TrainedWeights, content: bytes, **facts: Unpack[CardFacts]) -> Card:
    """The card of weights whose safetensors file is ``content``; see :func:`store_weights`."""
    facts = {"measured": trained.measured or None, "notes": "; ".join(trained.notes) or None, **facts}
    return Card(
        name=str(name),
        kind=kind,
        architecture=trained.architecture,
        dataset=name.dataset,
        image=trained.image,
        weights=_file(name, content),
        arguments=trained.arguments,
        classes=trained.classes,
        **facts,
    )


def to_safetensors(name: str, weights: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of a network's weights: contiguous tensors of their own, the card's name as metadata."""
    apart: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for key, tensor in weights.items():
        own = tensor.detach().cpu().contiguous()
        shared = own.data_ptr() in addresses or own.untyped_storage().nbytes() > own.numel() * own.element_size()
        apart[key] = own.clone() if shared else own  # safetensors refuses tensors that share memory
        addresses.add(apart[key].data_ptr())
    return save(apart, metadata={METADATA_KEY: name})


def save_weights(
    card: Card,
    content: bytes,
    folder: Path,
    *,
    artefacts: bytes | None = None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write ``weights/<file>``, then the card that vouches for it; returns the card's path.

    Args:
        card: the card.
        content: the file of weights.
        folder: gets both, one process at a time: two that mix would leave a card with another one's weights.
        artefacts: the file that ``card.artefacts`` describes; None: there is none.
        check: raises where the place is not free; called while no other process writes there.

    Raises:
        MibenchError: a folder that cannot be written; weights without their card are taken away again.
    """
    path = folder / "weights" / card.weights.file
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            what = f"{path.parent} is being written"
            stack.enter_context(held(folder / ".shelf.lock", what, patience=SHELF_PATIENCE))
        except OSError as error:
            raise write_error(path, error) from error
        check()
        fresh = not path.exists()
        aside = path.parent / ARTEFACTS / path.name
        if artefacts is None:
            aside.unlink(missing_ok=True)  # of an earlier training under this name
        else:
            aside.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(aside, artefacts, sweep=True)
        atomic_write(path, content, sweep=True)
        try:
            return write_card(card, folder / "cards")
        except MibenchError:
            if fresh:
                path.unlink(missing_ok=True)
            raise
