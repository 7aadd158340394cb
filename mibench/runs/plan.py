"""From names to a plan: what is asked for, resolved into a :class:`~mibench.runs.spec.RunSpec`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mibench import registry
from mibench import settings as config
from mibench.api import Access, Attack, CardName, MappingPrior
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError, suggest
from mibench.runs.budget import within_budget
from mibench.runs.code import attack_code
from mibench.runs.protocol import check_metrics, load_protocol
from mibench.runs.request import SCOPES as SCOPES
from mibench.runs.request import Request as Request
from mibench.runs.request import names_of
from mibench.runs.spec import EvalProtocol, RunSpec, Weights
from mibench.settings import Layer, Setting
from mibench.system.canonical import plain
from mibench.system.text_files import typed
from mibench.weights import cards
from mibench.weights.minimum_accuracy import refuse_weak
from mibench.weights.prior_class import prior_class
from mibench.weights.same_data import check_same_data


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that is ready to start: the specification and the objects it names."""

    spec: RunSpec
    attack: Attack
    dataset: IdentitySplit
    target: cards.CardFile
    judge: cards.CardFile
    prior: cards.CardFile | None
    regressor: cards.CardFile | None
    origins: Mapping[str, Setting]  # "attack.steps" -> value and origin
    chosen: Mapping[str, Any]  # the names, for config.yaml
    said: tuple[str, ...] = ("--set",)  # origins that a person wrote, beside presets, protocols and cards

    def units(self) -> list[tuple[int, ...]]:
        """The identities of each unit, in order: ``unit_size`` at a time, the last one may be smaller."""
        return self.spec.protocol.units(self.attack.unit_size)

    def prior_queries(self) -> int | None:
        """Images that the training of the prior showed the victim, as its card says; None when it does not say.

        0 without a prior, and for one that is made for every target: no victim has a part in its training.
        """
        if self.prior is None:
            return 0
        card = self.prior.card()
        counted = (card.measured or {}).get("queries_forward")
        if isinstance(counted, int):
            return counted
        return None if prior_class(card.architecture).per_target else 0

    def config_text(self) -> str:
        """What ``mibench run --config`` accepts to do the same again: names and every resolved setting."""
        import yaml

        content = {key: value for key, value in self.chosen.items() if value is not None and key != "preset"}
        settings = {scope: values for scope, values in self.settings_said().items() if values}
        return yaml.safe_dump({**content, "settings": settings}, sort_keys=False, allow_unicode=True)

    def settings_said(self) -> dict[str, dict[str, Any]]:
        """Every setting of the attack, and of the other scopes what a person changed (the rest follows from names)."""
        scopes: dict[str, dict[str, Any]] = {scope: {} for scope in SCOPES}
        for name, setting in self.origins.items():
            scope, _, rest = name.partition(".")
            if scope == "attack" or setting.origin in self.said:
                scopes[scope][rest] = plain(setting.value)
        return scopes

    def entries(self) -> list[registry.Entry]:
        """The registered parties that take part; their code is part of the record."""
        found = [
            registry.entry("attack", str(self.chosen["attack"])),
            registry.entry("dataset", self.spec.dataset),
            registry.entry("target", self.spec.target.architecture),
        ]
        if self.spec.prior is not None:
            found.append(registry.entry("prior", self.spec.prior.architecture))
        return found


def make_plan(request: Request) -> Plan:
    """Resolve names, presets, settings, cards and data; nothing is loaded onto a device yet.

    Raises:
        MibenchError: any mistake in the input. When both the data and the weights are missing, one line for each.
    """
    chosen, file_settings = names_of(request)
    for scope in request.settings:
        if scope not in SCOPES:
            raise MibenchError(registry.unknown("scope of settings", scope, SCOPES))

    def layers(scope: str) -> list[Layer]:
        found = [Layer(str(request.config), file_settings.get(scope, {}))] if request.config else []
        return [*found, Layer("--set", request.settings.get(scope, {}))]

    entry = registry.entry("attack", str(chosen["attack"]))
    dataset_kind = registry.load("dataset", str(chosen["dataset"]))
    asked = chosen["protocol"]
    chosen["protocol"] = asked or dataset_kind.protocol
    protocol, protocol_origins = load_protocol(str(chosen["protocol"]), layers("protocol"))
    if not asked:
        protocol_origins["name"] = Setting(protocol.name, f"default of data set {chosen['dataset']}")
    check_metrics(protocol)
    attack, attack_origins, preset = _attack(entry, chosen, protocol, layers("attack"))
    _check_access(attack, protocol)
    said = ("--set", str(request.config))
    problems: list[MibenchError] = []
    own = Layer(f"protocol {protocol.name}", protocol.dataset)
    dataset: IdentitySplit | None = None
    dataset_origins: dict[str, Setting] = {}
    files: dict[str, cards.CardFile] = {}
    try:
        dataset, dataset_origins = config.resolve(dataset_kind, [own, *layers("dataset")], scope="dataset")
    except MibenchError as error:
        problems.append(error)
    prior = _prior_name(chosen, attack, protocol)
    judge = chosen["judge"] or protocol.judge
    wanted = {"target": chosen["target"], "judge": judge, "prior": prior, "regressor": protocol.regressor}
    for kind, name in wanted.items():
        if name is None or (kind == "regressor" and not _knows_truth(dataset)):
            continue
        try:
            files[kind] = cards.find(kind, str(name), str(chosen["dataset"]))
        except MibenchError as error:
            problems.append(error)
    if problems or dataset is None:
        raise MibenchError(*(line for p in dict.fromkeys(map(str, problems)) for line in p.splitlines()))
    loaded = {kind: file.card() for kind, file in files.items()}
    for kind, card in loaded.items():
        _check_data(kind, card, dataset)
        if kind in ("target", "judge"):
            refuse_weak(card, chosen["min_accuracy"])
    everybody = protocol.identities is None and protocol_origins["identities"].origin not in said
    protocol = protocol.resolved(dataset.num_classes)
    if everybody:
        all_of_them = Setting(protocol.identities, f"all of {dataset.name} that {protocol.title} allows")
        protocol_origins["identities"] = all_of_them
    _check_card_access(attack, loaded["target"])
    _check_identities(protocol, loaded["target"].classes, dataset)
    attack, attack_origins = within_budget(attack, attack_origins, protocol, said)
    if "prior" in loaded:
        _check_prior(attack, loaded["prior"], loaded["target"])
    weights = {
        kind: Weights(card=c.name, architecture=c.architecture, sha256=c.weights.sha256, arguments=c.arguments)
        for kind, c in loaded.items()
    }
    prior_origins: dict[str, Setting] = {}
    if "prior" in weights:
        of_protocol = Layer(f"protocol {protocol.title}", protocol.prior_settings.get(weights["prior"].card, {}))
        arguments, prior_origins = _prior_arguments(weights["prior"], [of_protocol, *layers("prior")])
        weights["prior"] = dataclasses.replace(weights["prior"], arguments=arguments)
    spec = RunSpec(
        attack=entry.name,
        attack_code=attack_code(entry),
        attack_settings=dataclasses.asdict(attack),
        preset=preset,
        dataset=str(chosen["dataset"]),
        dataset_settings={name: setting.value for name, setting in dataset_origins.items()},
        dataset_digest=dataset.digest,
        target=weights["target"],
        judge=weights["judge"],
        prior=weights.get("prior"),
        regressor=weights.get("regressor"),
        protocol=protocol,
        seed=chosen["seed"],
        precision=chosen["precision"],
    )
    origins = {
        f"{scope}.{name}": setting
        for scope, found in (
            ("attack", attack_origins),
            ("dataset", dataset_origins),
            ("prior", prior_origins),
            ("protocol", protocol_origins),
        )
        for name, setting in found.items()
    }
    return Plan(
        spec=spec,
        attack=attack,
        dataset=dataset,
        target=files["target"],
        judge=files["judge"],
        prior=files.get("prior"),
        regressor=files.get("regressor"),
        origins=origins,
        chosen={**chosen, "preset": preset},
        said=said,
    )


def _attack(
    entry: registry.Entry, chosen: Mapping[str, Any], protocol: EvalProtocol, layers: list[Layer]
) -> tuple[Attack, dict[str, Setting], str | None]:
    name, kind = entry.name, entry.load()
    presets = config.attack_presets(str(chosen["attack"]))
    of_protocol = protocol.attack_presets.get(name)
    preset = presets.choose(
        name,
        chosen["preset"] or (of_protocol if chosen["dataset"] in protocol.made_for else None),
        of_protocol,
        dataset=str(chosen["dataset"]),
        protocol=str(chosen["protocol"]),
    )
    attack, origins = config.resolve(kind, [*([preset] if preset else []), *layers], scope="attack")
    if attack.unit_size < 1:
        raise MibenchError(f"attack.unit_size must be at least 1, got {attack.unit_size}")
    return attack, origins, preset.origin.removeprefix("preset ") if preset else None


def _prior_name(chosen: Mapping[str, Any], attack: Attack, protocol: EvalProtocol) -> str:
    """The prior asked for, else the attack's own, else the protocol's; one made against a target is the target's."""
    name = str(chosen["prior"] or attack.prior or protocol.prior)
    prior = CardName.complete(name, str(chosen["dataset"]))
    target = CardName.complete(str(chosen["target"]), str(chosen["dataset"]))
    made_for_one = prior.architecture in registry.names("prior") and prior_class(prior.architecture).per_target
    return f"{name}+{target.as_tag}" if made_for_one and prior.tag is None else name


def _check_prior(attack: Attack, prior: Any, target: Any) -> None:
    """Refuse a prior without the parts that the attack works on, and one that was made against other weights."""
    if attack.needs_mapping and not issubclass(prior_class(prior.architecture), MappingPrior):
        raise MibenchError(
            f"attack {attack.name!r} needs a prior with a mapping network, {prior.name!r} has none: "
            "run with --prior stylegan2"
        )
    made_against = (prior.recipe or {}).get("target_sha256")
    if made_against not in (None, target.weights.sha256):
        raise MibenchError(
            f"prior {prior.name!r} was trained against other weights than {target.name!r} has "
            f"(sha256 {str(made_against)[:12]}, this run {target.weights.sha256[:12]}); train its own: "
            f"{cards.training_command('prior', prior.name, target.name)}"
        )


def _knows_truth(dataset: IdentitySplit | None) -> bool:
    from mibench.data.split import GroundTruth

    return isinstance(dataset, GroundTruth)


def _check_access(attack: Attack, protocol: EvalProtocol) -> None:
    from mibench.api import AccessError

    granted = Access[protocol.access.upper()]
    if attack.access > granted:
        raise AccessError(
            f"attack {attack.name!r} needs {attack.access.name.lower()}, protocol {protocol.name!r} grants "
            f"{protocol.access}; choose {_attacks_within(granted)} or --set "
            f"protocol.access={attack.access.name.lower()}"
        )


def _check_card_access(attack: Attack, target: Any) -> None:
    from mibench.weights.load import max_access

    granted = max_access(target)
    if attack.access > granted:
        because = f"target {target.name!r} can give no more than {granted.name.lower()}"
        raise access_error(type(attack), granted, because)


def access_error(attack: type[Attack], granted: Access, because: str) -> MibenchError:
    """The refusal of an attack that needs more than there is; names those that need less."""
    from mibench.api import AccessError

    return AccessError(
        f"attack {attack.name!r} needs {attack.access.name.lower()}, {because}; choose {_attacks_within(granted)}"
    )


def _attacks_within(granted: Access) -> str:
    """``an attack that needs less (floor)``."""
    names = [name for name in registry.names("attack") if registry.load("attack", name).access <= granted]
    return f"an attack that needs less ({', '.join(names) or 'none is installed'})"


def _check_data(kind: str, card: Any, dataset: IdentitySplit) -> None:
    check_same_data(kind, card, dataset)
    if kind in ("target", "judge") and card.classes != dataset.num_classes:
        raise MibenchError(
            f"{kind} {card.name!r} has {card.classes} classes, {dataset.name} has {dataset.num_classes}; "
            "choose weights that were trained on it"
        )


def _check_identities(protocol: EvalProtocol, classes: int | None, dataset: IdentitySplit) -> None:
    if protocol.labels[-1] >= (classes or 0):
        raise MibenchError(
            f"protocol {protocol.name!r} attacks identities {protocol.labels[0]} to {protocol.labels[-1]}, "
            f"{dataset.name} has {classes}; --set protocol.identities=N asks for fewer"
        )


def _prior_arguments(weights: Weights, layers: list[Layer]) -> tuple[dict[str, Any], dict[str, Setting]]:
    """The card's arguments with the run's on top.

    Names are checked here, values too where the prior has a ``check``.
    """
    arguments = dict(weights.arguments)
    origins = {name: Setting(value, f"card {weights.card}") for name, value in arguments.items()}
    kind = prior_class(weights.architecture)
    known = (*arguments, *kind.options)
    for layer in layers:
        for name, value in layer.values.items():
            if name not in known:
                raise MibenchError(
                    f"unknown setting 'prior.{typed(name)}' from {layer.origin}{suggest(name, known)} "
                    f"(known: {', '.join(known) or 'none'})"
                )
            config.check_value(value, f"prior.{name}", layer.origin)
            arguments[name] = value
            origins[name] = Setting(value, layer.origin)
    kind.check(arguments, weights.card)
    return arguments, origins
