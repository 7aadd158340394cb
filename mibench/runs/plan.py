"""From names to a plan: a request, resolved once into a record of everything that a run needs to know.

Nothing downstream asks the makers of a plan again: what the engine, the referee, a sweep or a table needs is a field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mibench import registry
from mibench import settings as config
from mibench.api import Attack, Card, CardName
from mibench.data.split import GroundTruth, IdentitySplit
from mibench.errors import MibenchError, Problem, suggest
from mibench.runs import compatibility
from mibench.runs.budget import within_budget
from mibench.runs.code import attack_code
from mibench.runs.protocol import check_metrics, choose_preset, load_protocol
from mibench.runs.request import RunNames, RunRequest, config_yaml, read_request
from mibench.runs.spec import EvalProtocol, FilteredWeights, RunSpec, Weights
from mibench.settings import Layer, Setting
from mibench.system.text_files import typed
from mibench.weights import cards as card_files
from mibench.weights.answer_filters import filter_settings
from mibench.weights.cards import CardFile
from mibench.weights.minimum_accuracy import refuse_weak
from mibench.weights.prior_class import prior_class

Origins = dict[str, Setting]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        spec: what decides its results.
        attack, dataset: the objects that it names.
        target, judge, prior, regressor: files of weights; ``cards``: what their cards say, by kind.
        names: the names that were asked for.
        origins: ``"attack.steps"`` -> value and where it comes from, of every setting.
        units: the identities of each unit, in order.
        parties: the registered parties that take part; their code is part of the record.
        prior_queries: images that the training of the prior showed the victim, as its card says: 0 without a prior and
            for one that is made for every target, None where the card of another one does not say.
        config_yaml: what ``mibench run --config`` accepts to do the same again.
    """

    spec: RunSpec
    attack: Attack
    dataset: IdentitySplit
    target: CardFile
    judge: CardFile
    prior: CardFile | None
    regressor: CardFile | None
    cards: Mapping[str, Card]
    names: RunNames
    origins: Mapping[str, Setting]
    units: tuple[tuple[int, ...], ...]
    parties: tuple[registry.Entry, ...]
    prior_queries: int | None
    config_yaml: str

    def floor(self) -> Plan | None:
        """The run that this one is compared with: the same in everything but the attack. None: it is one itself.

        The floor takes the preset that was asked for, where it has one of that name, and every setting of the attack
        that a person asked for and that it has too (pool, candidates, truncation): it searches as its attack does.

        Raises:
            MibenchError: the protocol grants less than the floor needs, or has a budget that it exceeds.
        """
        baseline = registry.role("baseline")
        if baseline is None or self.spec.attack == baseline:
            return None
        entry = registry.entry("attack", baseline)
        known = set(config.setting_names(entry.load())) - set(config.setting_names(Attack))
        shared = [
            Layer(setting.origin, {name: setting.value}, by_user=True)
            for name, setting in _scope(self.origins, "attack").items()
            if setting.by_user and name in known
        ]
        names = dataclasses.replace(
            self.names,
            attack=baseline,
            prior=None if self.spec.prior is None else self.spec.prior.card,
            preset=self.names.preset if self.names.preset in config.attack_presets(baseline).presets else None,
        )
        attack, origins, preset = _attack(entry, names, self.spec.protocol, shared)
        compatibility.check_target_access(attack, self.cards["target"])
        attack, origins = within_budget(attack, origins, self.spec.protocol)
        if self.prior is not None:
            compatibility.check_prior(attack, self.cards["prior"], self.cards["target"])
        spec = dataclasses.replace(
            self.spec,
            attack=entry.name,
            attack_code=attack_code(entry),
            attack_settings=dataclasses.asdict(attack),
            preset=preset,
        )
        others = {name: setting for name, setting in self.origins.items() if not name.startswith("attack.")}
        files = {"target": self.target, "judge": self.judge, "prior": self.prior, "regressor": self.regressor}
        return _plan(spec, attack, self.dataset, files, self.cards, names, _scoped("attack", origins) | others)


def make_plan(request: RunRequest) -> Plan:
    """Resolve names, presets, settings, cards and data; nothing is loaded onto a device yet.

    Raises:
        MibenchError: invalid input. When both the data and the weights are missing, one line for each.
    """
    names, layers = read_request(request)
    entry = registry.entry("attack", names.attack)
    protocol, protocol_origins, names = _protocol(names, layers["protocol"])
    attack, attack_origins, preset = _attack(entry, names, protocol, layers["attack"])
    dataset, dataset_origins, files = _dataset_and_weights(names, attack, protocol, layers["dataset"])
    loaded = {kind: file.card() for kind, file in files.items()}
    for kind, card in loaded.items():
        compatibility.check_data(kind, card, dataset)
        if kind in ("target", "judge"):
            refuse_weak(card, names.min_accuracy)
    everybody = protocol.identities is None and not protocol_origins["identities"].by_user
    protocol = protocol.resolved(dataset.num_classes)
    if everybody:
        all_of_them = f"all of {dataset.name} that {protocol.title} allows"
        protocol_origins["identities"] = Setting(protocol.identities, all_of_them)
    compatibility.check_target_access(attack, loaded["target"])
    compatibility.check_identities(protocol, loaded["target"], dataset)
    attack, attack_origins = within_budget(attack, attack_origins, protocol)
    weights = {kind: _weights(card) for kind, card in loaded.items()}
    prior_origins: Origins = {}
    if "prior" in loaded:
        compatibility.check_prior(attack, loaded["prior"], loaded["target"])
        of_protocol = Layer(f"protocol {protocol.title}", protocol.prior_settings.get(weights["prior"].card, {}))
        arguments, prior_origins = _prior_arguments(weights["prior"], [of_protocol, *layers["prior"]])
        weights["prior"] = dataclasses.replace(weights["prior"], arguments=arguments)
    spec = RunSpec(
        attack=entry.name,
        attack_code=attack_code(entry),
        attack_settings=dataclasses.asdict(attack),
        preset=preset,
        dataset=names.dataset,
        dataset_settings={name: setting.value for name, setting in dataset_origins.items()},
        dataset_digest=dataset.digest,
        target=weights["target"],
        judge=weights["judge"],
        prior=weights.get("prior"),
        regressor=weights.get("regressor"),
        protocol=protocol,
        seed=names.seed,
        precision=names.precision,
    )
    origins = _scoped("attack", attack_origins) | _scoped("dataset", dataset_origins)
    origins |= _scoped("prior", prior_origins) | _scoped("protocol", protocol_origins)
    return _plan(spec, attack, dataset, files, loaded, names, origins)


def _weights(card: Card) -> Weights:
    """What a run says of a set of weights; of a target whose answers are filtered also the filters."""
    own = Weights(card=card.name, architecture=card.architecture, sha256=card.weights.sha256, arguments=card.arguments)
    filters = filter_settings(card)
    return FilteredWeights(**vars(own), filters=filters) if filters else own


def _plan(
    spec: RunSpec,
    attack: Attack,
    dataset: IdentitySplit,
    files: Mapping[str, CardFile | None],
    loaded: Mapping[str, Card],
    names: RunNames,
    origins: Origins,
) -> Plan:
    """The record, with what follows from the rest."""
    target, judge = files["target"], files["judge"]
    assert target is not None
    assert judge is not None
    parties = [
        registry.entry("attack", names.attack),
        registry.entry("dataset", spec.dataset),
        registry.entry("target", spec.target.architecture),
        *(registry.entry("defence", name) for name in filter_settings(loaded["target"])),
    ]
    if spec.prior is not None:
        parties.append(registry.entry("prior", spec.prior.architecture))
    return Plan(
        spec=spec,
        attack=attack,
        dataset=dataset,
        target=target,
        judge=judge,
        prior=files.get("prior"),
        regressor=files.get("regressor"),
        cards=loaded,
        names=names,
        origins=origins,
        units=tuple(spec.protocol.units(attack.unit_size)),
        parties=tuple(parties),
        prior_queries=_prior_queries(loaded.get("prior")),
        config_yaml=config_yaml(names, origins),
    )


def _scoped(scope: str, origins: Mapping[str, Setting]) -> Origins:
    return {f"{scope}.{name}": setting for name, setting in origins.items()}


def _scope(origins: Mapping[str, Setting], scope: str) -> Origins:
    """The settings of one scope, without its name."""
    start = f"{scope}."
    return {name.removeprefix(start): setting for name, setting in origins.items() if name.startswith(start)}


def _protocol(names: RunNames, layers: Iterable[Layer]) -> tuple[EvalProtocol, Origins, RunNames]:
    """The protocol asked for, else the data set's own; the names then have it."""
    default: str = registry.load("dataset", names.dataset).protocol
    protocol, origins = load_protocol(names.protocol or default, tuple(layers))
    if names.protocol is None:
        origins["name"] = Setting(protocol.name, f"default of data set {names.dataset}")
    check_metrics(protocol)
    return protocol, origins, dataclasses.replace(names, protocol=names.protocol or default)


def _attack(
    entry: registry.Entry, names: RunNames, protocol: EvalProtocol, layers: Iterable[Layer]
) -> tuple[Attack, Origins, str | None]:
    """The attack with its preset and what was set on top; the name of the preset."""
    file = config.attack_presets(names.attack)
    preset = choose_preset(entry.name, protocol, names.dataset, names.preset, file)
    kind: type[Attack] = entry.load()
    attack, origins = config.resolve(kind, [*([file.presets[preset]] if preset else []), *layers], scope="attack")
    if attack.unit_size < 1:
        raise MibenchError(f"attack.unit_size must be at least 1, got {attack.unit_size}")
    compatibility.check_protocol_access(attack, protocol)
    return attack, origins, preset


def _dataset_and_weights(
    names: RunNames, attack: Attack, protocol: EvalProtocol, layers: Iterable[Layer]
) -> tuple[IdentitySplit, Origins, dict[str, CardFile]]:
    """The data and the files of weights, by kind.

    Raises:
        MibenchError: a line for each that is missing.
    """
    problems: list[Problem] = []
    dataset: IdentitySplit | None = None
    origins: Origins = {}
    files: dict[str, CardFile] = {}
    kind: type[IdentitySplit] = registry.load("dataset", names.dataset)
    try:
        own = Layer(f"protocol {protocol.name}", protocol.dataset)
        dataset, origins = config.resolve(kind, [own, *layers], scope="dataset")
    except MibenchError as error:
        problems += error.problems
    needed: dict[str, str | None] = {
        "target": names.target,
        "judge": names.judge or protocol.judge,
        "prior": _prior_name(names, attack, protocol),
        "regressor": protocol.regressor if isinstance(dataset, GroundTruth) else None,
    }
    for party, name in needed.items():
        if name is None:
            continue
        try:
            files[party] = card_files.find(party, name, names.dataset)
        except MibenchError as error:
            problems += error.problems
    if problems or dataset is None:
        raise MibenchError.several(problems)
    return dataset, origins, files


def _prior_name(names: RunNames, attack: Attack, protocol: EvalProtocol) -> str:
    """The prior asked for, else the attack's own, else the protocol's; one made against a target is the target's."""
    name = names.prior or attack.prior or protocol.prior
    prior = CardName.complete(name, names.dataset)
    aimed = (
        prior.tag is None
        and prior.architecture in registry.names("prior")
        and prior_class(prior.architecture).per_target
    )
    return f"{name}+{CardName.complete(names.target, names.dataset).as_tag}" if aimed else name


def _prior_queries(prior: Card | None) -> int | None:
    if prior is None:
        return 0
    counted = (prior.measured or {}).get("queries_forward")
    if isinstance(counted, int):
        return counted
    return None if prior_class(prior.architecture).per_target else 0


def _prior_arguments(weights: Weights, layers: Iterable[Layer]) -> tuple[dict[str, object], Origins]:
    """The card's arguments with the run's on top.

    Names are checked here, values too where the prior has a ``check``.
    """
    arguments: dict[str, object] = dict(weights.arguments)
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
            origins[name] = Setting(value, layer.origin, layer.by_user)
    kind.check(arguments, weights.card)
    return arguments, origins
