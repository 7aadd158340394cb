"""Cards of trained weights: finding, reading and writing them. Listing them imports no torch.

Shipped cards are YAML files in the packages that catalogues name under ``cards``, their weights in the sibling package
``weights``. A person's own lie in ``$MIBENCH_HOME/cards`` and ``$MIBENCH_HOME/weights`` and win over shipped ones of
the same name; every run records the weights' sha256, so it always says which were used.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mibench import registry
from mibench.downloads.catalogue import source_of
from mibench.errors import MibenchError, suggest
from mibench.records import CardName
from mibench.settings import read_yaml
from mibench.system.canonical import JsonObject
from mibench.system.files import atomic_write
from mibench.system.paths import home
from mibench.system.text_files import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from mibench.api import Card, CardDefence

ARTEFACTS = "artefacts"  # folder beside weights: tensors for analysis
CARD_KINDS = ("target", "judge", "regressor", "prior", "backbone")


@dataclass(frozen=True)
class CardFile:
    """A card on disk, of which only name and kind are parsed.

    Attributes:
        name: ``architecture@dataset`` or ``architecture@dataset+tag``.
        path: the YAML file.
        weights_folder: where its weights lie.
        origin: the distribution that ships it, or ``user``.
    """

    name: str
    kind: str
    path: Path
    weights_folder: Path
    origin: str
    content: JsonObject

    @property
    def card_name(self) -> CardName:
        """The name, taken apart."""
        return CardName.parse(self.name)

    @property
    def weights_path(self) -> Path:
        """The safetensors file that the card describes."""
        return self.weights_folder / self.card().weights.file

    @cached_property
    def _card(self) -> Card:
        return parse_card(self.content, str(self.path))

    def card(self) -> Card:
        """The whole card, checked.

        Raises:
            MibenchError: an unknown or missing field, or a value of the wrong type.
        """
        return self._card


def parse_card(content: JsonObject, source: str) -> Card:
    """Build a :class:`~mibench.api.Card` from the contents of its file."""
    import pydantic

    from mibench.api import Card, ImageSpec, WeightsFile
    from mibench.settings import adapter

    def check(kind: type, given: Mapping[str, object], where: str) -> None:
        known = [field.name for field in dataclasses.fields(kind)]
        for key in given:
            if key not in known:
                raise MibenchError(
                    f"{source}: unknown field {where}{key!r}{suggest(key, known)}", cure="correct the card"
                )

    check(Card, content, "")
    for name, kind in (("image", ImageSpec), ("weights", WeightsFile), ("artefacts", WeightsFile)):
        if isinstance(content.get(name), Mapping):
            check(kind, content[name], f"{name}.")
    try:
        card = adapter(Card).validate_python(dict(content))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field_path = ".".join(str(part) for part in first["loc"])
        raise MibenchError(f"{source}: {field_path}: {first['msg'].lower()}") from error
    if card.kind not in CARD_KINDS:
        raise MibenchError(f"{source}: {registry.unknown('kind', card.kind, CARD_KINDS)}")
    for name, described in (("weights", card.weights), ("artefacts", card.artefacts)):
        if described is None or (
            Path(described.file).name == described.file and described.file.endswith(".safetensors")
        ):
            continue
        raise MibenchError(
            f"{source}: {name}.file must be the bare name of a .safetensors file, got {described.file!r}",
            cure="correct the card",
        )
    return card


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _scan(folder: Path, weights_folder: Path, origin: str) -> list[CardFile]:
    card_files = []
    for path in sorted(folder.glob("*.yaml")):
        content = read_yaml(path)
        for field in ("name", "kind"):
            if not isinstance(content.get(field), str):
                raise MibenchError(f"{path}: a card needs the field {field!r}", cure="repair or delete the file")
        try:
            CardName.parse(content["name"])
        except MibenchError as error:
            raise MibenchError(
                f"{path}: name should read architecture@dataset or architecture@dataset+tag, got "
                f"{shown(content['name'])}",
                cure="repair or delete the file",
            ) from error
        card_files.append(CardFile(content["name"], content["kind"], path, weights_folder, origin, content))
    return card_files


def shipped_cards() -> dict[str, CardFile]:
    """The cards that distributions bring, by name.

    Raises:
        MibenchError: two distributions ship a card of one name, or a card cannot be read.
    """
    card_files: dict[str, CardFile] = {}
    for entry in registry.catalogue()["cards"].values():
        folder = _folder_of(entry.address)
        if folder is None:
            raise MibenchError(
                f"{entry.distribution} registers cards in {entry.address!r}, which is not a package",
                cure=f"repair or uninstall {entry.distribution}",
            )
        for card in _scan(folder, folder.parent / "weights", entry.distribution):
            if card.name in card_files:
                raise MibenchError(
                    f"the card {card.name!r} is shipped twice: {card_files[card.name].path} and {card.path}",
                    cure="uninstall one of them",
                )
            card_files[card.name] = card
    return card_files


def all_cards() -> dict[str, CardFile]:
    """Every card by name, shipped ones first replaced by the person's own.

    Raises:
        MibenchError: as :func:`shipped_cards`.
    """
    card_files = shipped_cards()
    if (own := home() / "cards").is_dir():
        card_files |= {card.name: card for card in _scan(own, home() / "weights", "user")}
    return dict(sorted(card_files.items()))


def hides_shipped(file: CardFile) -> str | None:
    """The distribution whose card of the same name a person's own one hides; None when it hides none."""
    shipped = shipped_cards().get(file.name) if file.origin == "user" else None
    return None if shipped is None or shipped.content == file.content else shipped.origin


def training_command(kind: str, name: str, target: str | None = None) -> str:
    """The command that trains weights for the card ``name``: with its tag, or with ``--tag NAME`` where that name is
    shipped, since a training never takes the name of a baseline.

    Args:
        kind: of the network.
        name: of the card.
        target: that a prior made against one is to be made against; None: the one that it is called after.
    """
    card_name = CardName.complete(name, "")
    architecture, tag = card_name.architecture, card_name.tag
    words = ["mibench", "train", kind, architecture]
    if kind == "prior" and architecture in registry.names("prior") and _is_per_target(architecture):
        words += ["--target", target or tag or "NAME"]
        tag = None
    words += ["--dataset", card_name.dataset] if card_name.dataset else []
    if kind == "target" and tag and set(defences := tag.split("+")) <= set(registry.names("defence")):
        words += [word for defence in defences for word in ("--defence", defence)]  # whose tag this is by default
        tag = None
    if not tag and name in shipped_cards():
        tag = "NAME"
    return " ".join([*words, *(["--tag", tag] if tag else [])])


def _is_per_target(architecture: str) -> bool:
    from mibench.weights.prior_class import prior_class  # here, since it imports torch

    return prior_class(architecture).per_target


def find(kind: str, wanted: str, dataset: str) -> CardFile:
    """The card of a network.

    Args:
        kind: target, judge, regressor, prior or backbone.
        wanted: ``ir152``, ``ir152+tag`` or a whole card name ``ir152@celeba``.
        dataset: completes a name without ``@``.

    Raises:
        MibenchError: unknown architecture (with a suggestion), a card of another kind, or no trained weights yet.
    """
    card_name = CardName.complete(wanted, dataset)
    name, architecture = str(card_name), card_name.architecture
    cards = all_cards()
    if (card := cards.get(name)) is not None and card.kind == kind:
        return card
    other = (
        card.kind
        if card is not None
        else next((k for k in CARD_KINDS if k != kind and architecture in registry.names(k)), None)
    )
    if architecture not in registry.names(kind):
        if other is not None:
            options = ", ".join(registry.names(kind))
            raise MibenchError(f"{wanted!r} is a {other}, it can never be chosen as the {kind} (known: {options})")
        raise MibenchError(registry.unknown(kind, architecture, registry.names(kind)))
    # A network of another data set is no misspelling, unless the data set was spelled out.
    have = [
        own.name
        for own in cards.values()
        if own.kind == kind
        and own.card_name.architecture == architecture  # that was spelled right
        and ("@" in wanted or own.card_name.dataset == dataset)
    ]
    if kind == "target" and _from_user(architecture):
        raise MibenchError(
            f"no target {name!r} has been imported by an audit{suggest(name, have)}",
            cure="mibench audit --model MODEL --data FOLDER does that",
        )
    published = source_of(name)
    get = f"`mibench fetch {published}` says how to get them" if published else "get them from their authors"
    if kind == "backbone":
        trains = ""
        if f"{kind}:{architecture}" in registry.names("recipe"):
            trains = f"train them on public people with `{training_command(kind, name)}`, or "
        raise MibenchError(
            f"no weights of the backbone {name!r} are here{suggest(name, have)}",
            cure=f"{trains}{get} and `mibench import FILE --as backbone:{name}`",
        )
    imports = ""
    if {kind, f"{kind}:{architecture}"} & set(registry.names("importer")):
        imports = f", or import published ones with `mibench import FILE --as {kind}:{name}`"
    hint = f" ({get})" if published else ""
    raise MibenchError(
        f"no trained weights for the {kind} {name!r}",
        cure=f"train them with `{training_command(kind, name)}`{imports}{hint}{suggest(name, have)}",
    )


def _from_user(architecture: str) -> bool:
    from mibench.api import network_traits

    return network_traits(registry.load("target", architecture)).from_user


def card_text(card: Card) -> str:
    """The YAML of a card, fields in their order, empty ones left out."""
    from mibench.system.canonical import plain

    content = {}
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        if value is None or value == {} or (field.name == "access" and value == field.default):
            continue
        if field.name == "defence":
            content[field.name] = defence_record(value)
        else:
            content[field.name] = (
                _ordered(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else plain(value)
            )
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def defence_record(defence: CardDefence) -> dict[str, object]:
    """What is written down of a defence, in cards and runs; without ``differs_from_twin`` where nothing differs."""
    record = _ordered(defence)
    if not defence.differs_from_twin:
        del record["differs_from_twin"]
    return record


def _ordered(value: DataclassInstance) -> dict[str, object]:
    from mibench.system.canonical import plain

    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def write_card(card: Card, folder: Path) -> Path:
    """Write ``<folder>/<stem>.yaml`` atomically."""
    path = folder / f"{CardName.parse(card.name).stem}.yaml"
    atomic_write(path, card_text(card).encode(), sweep=True)
    return path
