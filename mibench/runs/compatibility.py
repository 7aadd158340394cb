"""What must fit together before a run starts: access, weights, data, identities, the prior."""

from __future__ import annotations

from mibench import registry
from mibench.api import Access, AccessError, Attack, Card, MappingPrior
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.runs.spec import EvalProtocol
from mibench.system.canonical import plain
from mibench.weights import cards
from mibench.weights.answer_filters import filter_settings, why_less
from mibench.weights.load import max_access
from mibench.weights.prior_class import prior_class
from mibench.weights.same_data import check_same_data


def granted_access(attack: Attack, protocol: EvalProtocol, target: Card) -> Access:
    """What the victim of a run grants: what the attack makes use of, as far as protocol and target allow."""
    return min(attack.most_access, Access[protocol.access.upper()], max_access(target))


def check_protocol_access(attack: Attack, protocol: EvalProtocol) -> None:
    """Refuse an attack that needs more of the victim than the protocol grants."""
    granted = Access[protocol.access.upper()]
    if attack.least_access > granted:
        needed = attack.least_access.word
        raise AccessError(
            f"attack {attack.name!r} needs {needed}, this run grants {protocol.access}",
            cure=f"choose {_attacks_within(granted)} or --access {needed}",
        )


def check_target_access(attack: Attack, target: Card) -> None:
    """Refuse an attack that needs more than the target can give."""
    granted = max_access(target)
    if attack.least_access > granted:
        because = why_less(target, attack.least_access)
        because = because or f"target {target.name!r} can give no more than {granted.word}"
        raise access_error(attack, granted, because)


def access_error(attack: Attack | type[Attack], granted: Access, because: str) -> AccessError:
    """The refusal of an attack that needs more than is granted; names those that need less."""
    needed = attack.least_access if isinstance(attack, Attack) else attack.access
    return AccessError(
        f"attack {attack.name!r} needs {needed.word}, {because}",
        cure=f"choose {_attacks_within(granted)}",
    )


def _attacks_within(granted: Access) -> str:
    """``an attack that needs less (floor)``."""
    kinds: dict[str, type[Attack]] = {name: registry.load("attack", name) for name in registry.names("attack")}
    names = [name for name, kind in kinds.items() if kind.access <= granted and not kind.needs_portraits]
    return f"an attack that needs less ({', '.join(names) or 'none is installed'})"


def check_data(kind: str, card: Card, dataset: IdentitySplit) -> None:
    """Refuse weights that were trained on another version of the data, or on another number of classes."""
    check_same_data(kind, card, dataset)
    if kind in ("target", "judge", "second_judge") and card.classes != dataset.num_classes:
        raise MibenchError(
            f"{kind} {card.name!r} has {card.classes} classes, {dataset.name} has {dataset.num_classes}",
            cure="choose weights that were trained on it",
        )


def check_identities(protocol: EvalProtocol, dataset: IdentitySplit) -> None:
    """Refuse a protocol that attacks classes which the data set does not have."""
    if protocol.labels[-1] >= dataset.num_classes:
        raise MibenchError(
            f"protocol {protocol.name!r} attacks identities {protocol.labels[0]} to {protocol.labels[-1]}, "
            f"{dataset.name} has {dataset.num_classes}",
            cure="--set protocol.identities=N asks for fewer",
        )


def check_prior(attack: Attack, prior: Card, target: Card) -> None:
    """Refuse a prior without the parts that the attack works on, and one that was made against other weights."""
    check_mapping(type(attack), prior.name, prior.architecture)
    made_against = (prior.recipe or {}).get("target_sha256")
    if made_against not in (None, target.weights.sha256):
        raise MibenchError(
            f"prior {prior.name!r} was trained against other weights than {target.name!r} has (sha256 "
            f"{str(made_against)[:12]}, this run {target.weights.sha256[:12]})",
            cure=f"train its own: {cards.training_command('prior', prior.name, target.name)}",
        )
    if made_against is not None and (prior.recipe or {}).get("target_filters", {}) != plain(filter_settings(target)):
        raise MibenchError(
            f"prior {prior.name!r} was trained on answers that were filtered otherwise than those of {target.name!r}",
            cure=f"train its own: {cards.training_command('prior', prior.name, target.name)}",
        )


def check_mapping(attack: type[Attack], prior: str, architecture: str) -> None:
    """Refuse a prior that has no mapping network where the attack works on one."""
    if attack.needs_mapping and not issubclass(prior_class(architecture), MappingPrior):
        raise MibenchError(
            f"attack {attack.name!r} needs a prior with a mapping network, {prior!r} has none: {mapping_priors()}"
        )


def mapping_priors() -> str:
    """``run with --prior stylegan2``: the installed priors that have a mapping network."""
    names = [name for name in registry.names("prior") if issubclass(prior_class(name), MappingPrior)]
    return f"run with --prior {' or '.join(names)}" if names else "none of the installed ones has it: install another"
