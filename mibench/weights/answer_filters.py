"""Answer-time filters of a target, as its card names them; what they learnt lies among the target's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mibench import registry
from mibench import settings as config
from mibench.api import Access, AccessName, AnswerFilter, Card, Defence, FilteredAnswers
from mibench.errors import MibenchError
from mibench.settings import Layer

OWN = "filter:"  # begins the keys of a filter's weights; a colon is in no name of a network's


def own_weights(learnt: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Filter -> its weights, as they lie among the target's: ``filter:NAME/key``."""
    return {f"{OWN}{name}/{key}": value for name, weights in learnt.items() for key, value in weights.items()}


def apart(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The network's weights, and filter -> its own: undoes :func:`own_weights`."""
    network: dict[str, Tensor] = {}
    learnt: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(OWN):
            name, _, own = key.removeprefix(OWN).partition("/")
            learnt.setdefault(name, {})[own] = value
        else:
            network[key] = value
    return network, learnt


def filters_of(defences: Sequence[Defence]) -> tuple[AnswerFilter, ...]:
    """Those of the defences that act on answers."""
    return tuple(one for one in defences if isinstance(one, AnswerFilter))


def trains_nothing(defences: Sequence[Defence]) -> bool:
    """Whether there are defences and all of them only filter answers."""
    return bool(defences) and len(filters_of(defences)) == len(defences)


def access_behind(defences: Sequence[Defence]) -> AccessName:
    """The most that a target grants behind the filters among its defences; gradients without any."""
    return FilteredAnswers(filters_of(defences)).grants.word


def filter_settings(card: Card) -> dict[str, Mapping[str, object]]:
    """The filters of a target with every setting, as its card has them; empty without any.

    Raises:
        MibenchError: the card names a filter without its settings.
    """
    defence = card.defence
    if defence is None:
        return {}
    for name in defence.filters:
        if name not in defence.settings:
            raise MibenchError(
                f"card {card.name!r} names the filter {name!r} without its settings",
                cure="make it again",
            )
    return {name: defence.settings[name] for name in defence.filters}


def build_answers(card: Card, learnt: Mapping[str, Mapping[str, Tensor]] | None = None) -> FilteredAnswers | None:
    """What a target answers through; None where nothing filters its answers.

    Args:
        card: of the target.
        learnt: filter -> its weights; None: what the filters grant is all that is asked for.

    Raises:
        MibenchError: a filter is not installed or is none, a setting is missing, unknown, or makes no sense; weights
            of a filter are missing or do not fit.
    """
    filters: list[AnswerFilter] = []
    for name, values in filter_settings(card).items():
        kind = registry.load("defence", name)
        if not issubclass(kind, AnswerFilter):
            raise MibenchError(f"card {card.name!r} names {name!r} as a filter of its answers, which it is not")
        missing = [setting for setting in config.setting_names(kind) if setting not in values]
        if missing:
            raise MibenchError(f"card {card.name!r} lacks the setting {missing[0]!r} of the filter {name!r}")
        built, _ = config.resolve(kind, [Layer(f"card {card.name}", values)], scope="defence")
        built.check()
        if learnt is not None and built.reference_images:
            if name not in learnt:
                raise MibenchError(
                    f"the weights of {card.name!r} lack those of its filter {name!r}", cure="make it again"
                )
            built = built.with_weights(learnt[name])
        filters.append(built)
    return FilteredAnswers(filters) if filters else None


def why_less(card: Card, needed: Access) -> str | None:
    """Why a filtered target does not grant ``needed``, with the cure; None where no filter is the cause."""
    answers = build_answers(card)
    if answers is None or card.defence is None or needed <= answers.grants:
        return None
    names = ", ".join(card.defence.filters)
    if needed < Access.GRADIENTS:
        return f"target {card.name!r} answers labels only ({names})"
    trained = [name for name in card.defence.settings if name not in card.defence.filters]
    instead = f"the same weights without filters, defended by {'+'.join(trained)}" if trained else card.defence.twin
    return (
        f"target {card.name!r} filters its answers ({names}), which an attacker with gradients bypasses: "
        f"attack {instead} instead"
    )
