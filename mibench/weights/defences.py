"""The defences of a training: their settings, and the undefended twin whose recipe they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mibench import registry
from mibench import settings as config
from mibench.api import Access, CardDefence, CardName, Defence, Recipe, Victim
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.settings import Layer
from mibench.system.canonical import plain
from mibench.system.progress import Reporter
from mibench.system.text_files import shown
from mibench.weights.answer_filters import filters_of, trains_nothing
from mibench.weights.cards import CardFile, all_cards
from mibench.weights.cards import find as find_card
from mibench.weights.load import build_network
from mibench.weights.same_data import check_same_data

NO_TWIN = "none"


@dataclass(frozen=True)
class Twin:
    """The undefended twin of a defended training.

    Attributes:
        file: its card.
        layer: its recipe, the settings that the defended training takes over.
        seed, precision: those it was trained with.
    """

    file: CardFile
    layer: Layer
    seed: int
    precision: str


def tag_of(defences: Sequence[str]) -> str | None:
    """``bido`` or ``negls+bido``: the tag of weights that are defended so; None without defences."""
    return "+".join(name.partition(":")[0] for name in defences) or None


def resolve_defences(wanted: Sequence[str], settings: Mapping[str, object]) -> tuple[Defence, ...]:
    """Build defences from their defaults, presets and settings.

    Args:
        wanted: ``NAME`` or ``NAME:PRESET``.
        settings: of the one defence, ``{"alpha": 0.1}``; of several by their names, ``{"negls.alpha": -0.05}``.

    Raises:
        MibenchError: unknown names, presets or settings; values that make no sense.
    """
    names = [text.partition(":")[0] for text in wanted]
    for name in names:
        if names.count(name) > 1:
            raise MibenchError(
                f"the defence {name!r} is named twice",
                cure="name it once",
            )
    if not names and settings:
        first = next(iter(settings))
        raise MibenchError(
            f"defence.{first} is set, but no defence is named",
            cure="add --defence NAME",
        )
    by_name: dict[str, dict[str, object]] = {name: {} for name in names}
    for key, value in settings.items():
        if len(names) == 1:
            by_name[names[0]][key] = value
            continue
        name, dot, setting = key.partition(".")
        if name not in by_name or not dot:
            raise MibenchError(
                f"defence.{key}: with several defences a setting names its own",
                cure=f"write defence.NAME.SETTING with NAME one of {', '.join(names)}",
            )
        by_name[name][setting] = value
    defences = tuple(_resolved(text, by_name[name]) for text, name in zip(wanted, names, strict=True))
    for defence in defences:
        if defence.alone and len(defences) > 1:
            raise MibenchError(
                f"the defence {defence.name!r} holds alone only",
                cure="leave the other --defence out",
            )
    return defences


def _resolved(text: str, given: Mapping[str, object]) -> Defence:
    name, colon, preset = text.partition(":")
    kind: type[Defence] = registry.load("defence", name)
    file = config.presets_of("defence", name)
    chosen = preset if colon else file.default
    if chosen is not None and chosen not in file.presets:
        raise MibenchError(registry.unknown(f"preset of defence {name!r}", chosen, file.presets))
    layers = [file.presets[chosen]] if chosen is not None else []
    defence, _ = config.resolve(kind, [*layers, Layer("--set", given, by_user=True)], scope="defence")
    defence.check()
    return defence


def check_compatible(defences: Sequence[Defence], architecture: str) -> None:
    """Refuse a defence that does not apply to an architecture.

    Raises:
        MibenchError: names those it applies to.
    """
    for defence in defences:
        if defence.compatible is not None and architecture not in defence.compatible:
            raise MibenchError(
                f"the defence {defence.name!r} does not apply to {architecture}",
                cure=f"choose one of {', '.join(defence.compatible)}",
            )


def check_untrained(defences: Sequence[Defence], given: object) -> None:
    """Refuse settings of a training beside nothing but filters of answers.

    Raises:
        MibenchError: there are any (``given`` is true).
    """
    if given and trains_nothing(defences):
        raise MibenchError(
            f"{' and '.join(one.name for one in defences)} trains no classifier, it filters answers of "
            "trained weights: leave --set train.*, --seed and --precision out"
        )


def teacher_of(defences: Sequence[Defence], twin: Twin | None, device: torch.device) -> Victim | None:
    """The undefended twin as a teacher, where a defence learns from its answers.

    Raises:
        MibenchError: there is no twin.
    """
    if not any(one.needs_teacher for one in defences):
        return None
    check_teacher(defences, twin)
    assert twin is not None
    network, card = build_network(twin.file)
    return Victim(
        network.to(device),
        image=card.image,
        num_classes=int(card.classes or 0),
        access=Access.GRADIENTS,
        name=card.name,
    )


def check_teacher(defences: Sequence[Defence], twin: Twin | None) -> None:
    """Refuse a defence that learns from an undefended twin where there is none.

    Raises:
        MibenchError: with the cure.
    """
    for one in defences:
        if one.needs_teacher and twin is None:
            raise MibenchError(
                f"the defence {one.name!r} learns from the undefended twin's answers, and there is none",
                cure="train the twin first, or name it with --twin",
            )


def find_twin(
    defences: Sequence[Defence],
    wanted: str | None,
    architecture: str,
    recipe: type,
    dataset: IdentitySplit,
    reporter: Reporter,
) -> Twin | None:
    """The undefended twin: the card that ``wanted`` names, or by default the one without a tag.

    Args:
        defences: of the training; filters alone need a twin, whose weights they are put around.
        wanted: a card's name, ``none``, or None for the default.
        architecture, recipe: of the training.
        dataset: that it trains on.
        reporter: hears why there is no default twin.

    Raises:
        MibenchError: the named card is none, is defended itself, or belongs to other data.
    """
    if trains_nothing(defences):
        return _filtered_twin(wanted, architecture, dataset)
    if wanted == NO_TWIN:
        return None
    if wanted is not None:
        file = find_card("target", wanted, dataset.name)
        check_same_data("target", file.card(), dataset)
        _refuse_other_architecture(file, architecture)
        return _twin(file, recipe)
    name = str(CardName(architecture, dataset.name))
    file_or_none = all_cards().get(name)
    reason = f"there are no weights {name!r}"
    if file_or_none is not None:
        if file_or_none.card().dataset_digest != dataset.digest:
            reason = f"{name!r} was trained on other data"
        elif not file_or_none.card().recipe:
            reason = f"{name!r} was imported, its recipe is not known"
        else:
            return _twin(file_or_none, recipe)
    reporter.say(f"no undefended twin: {reason}; train one by the same settings to compare with (--twin names it)")
    return None


def _filtered_twin(wanted: str | None, architecture: str, dataset: IdentitySplit) -> Twin:
    if wanted == NO_TWIN:
        raise MibenchError("a filter is put around trained weights: name them with --twin instead of none")
    file = find_card("target", wanted or architecture, dataset.name)
    card = file.card()
    check_same_data("target", card, dataset)
    _refuse_other_architecture(file, architecture)
    _refuse_defended(file)
    return Twin(file, Layer(f"the twin {file.name}", {}), 0, "float32")


def _refuse_other_architecture(file: CardFile, architecture: str) -> None:
    if file.card().architecture != architecture:
        raise MibenchError(
            f"the twin {file.name} has the architecture {file.card().architecture}, not {architecture}",
            cure=f"name one of {architecture}, or train that architecture",
        )


def _refuse_defended(file: CardFile) -> None:
    if (defence := file.card().defence) is not None:
        raise MibenchError(
            f"{file.name!r} is defended itself",
            cure=f"name its undefended twin, such as {defence.twin}",
        )


def _twin(file: CardFile, recipe: type) -> Twin:
    card = file.card()
    _refuse_defended(file)
    known = set(config.setting_names(recipe)) - {"architecture"}
    values = {name: value for name, value in config.flatten(card.recipe, recipe).items() if name in known}
    layer = Layer(f"the twin {file.name}", values)
    seed = card.recipe.get("seed", 0)
    if not isinstance(seed, int):
        raise MibenchError(f"the card {file.name}: recipe.seed should be a whole number, got {shown(seed)}")
    return Twin(file, layer, seed, str(card.recipe.get("precision", "float32")))


def differences(
    twin: Twin, recipe: Recipe, *, architecture: str, seed: int, precision: str
) -> dict[str, tuple[object, object]]:
    """Where a training leaves its twin's recipe: setting -> the twin's value and its own.

    Settings that change no result are left out; one that the twin's card does not name had its default.

    Args:
        twin: its card is that of a training.
        recipe: of the training, built.
        architecture: that is trained.
        seed, precision: of the training.
    """
    layers = [twin.layer]
    if "architecture" in config.setting_names(type(recipe)):
        layers.append(Layer("command line", {"architecture": architecture}))
    followed, _ = config.resolve(type(recipe), layers, scope="train")
    theirs = {**plain(dataclasses.asdict(followed)), "seed": twin.seed, "precision": twin.precision}
    ours = {**plain(dataclasses.asdict(recipe)), "seed": seed, "precision": precision}
    return {
        name: (theirs[name], value)
        for name, value in ours.items()
        if name not in recipe.cost_only and theirs[name] != value
    }


def other_backbone(twin: Twin | None, recipe: Recipe, backbone: CardFile | None) -> dict[str, tuple[object, object]]:
    """``init_sha256``, where a training and its twin start from a backbone of one name that is not the same weights.

    Args:
        twin: its card says what it started from; of one that does not, nothing can be told.
        recipe: of the training, built.
        backbone: that the training starts from.
    """
    if twin is None or backbone is None:
        return {}
    card, ours = twin.file.card(), backbone.card().weights.sha256
    theirs = card.recipe.get("init_sha256")
    differ = theirs is not None and theirs != ours and card.recipe.get("init") == recipe.backbone
    return {"init_sha256": (theirs, ours)} if differ else {}


def describe_defences(
    defences: Sequence[Defence],
    twin: Twin | None,
    differs_from_twin: Mapping[str, tuple[object, object]] | None = None,
) -> CardDefence | None:
    """What the card says of the defences; None without any. For the last argument see :func:`differences`."""
    if not defences:
        return None
    return CardDefence(
        name="+".join(defence.name for defence in defences),
        settings={defence.name: plain(dataclasses.asdict(defence)) for defence in defences},
        twin=None if twin is None else twin.file.name,
        twin_sha256=None if twin is None else twin.file.card().weights.sha256,
        control=any(defence.control for defence in defences),
        filters=tuple(one.name for one in filters_of(defences)),
        differs_from_twin=differs_from_twin or {},
    )
