"""From names to a plan: a request, resolved once into a record of everything that a run needs to know.

Later stages read only the plan: what the engine, the referee, a sweep or a table needs is a field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from mibench import registry
from mibench import settings as config
from mibench.api import Attack, Card, CardName
from mibench.data.split import GroundTruth, IdentitySplit
from mibench.errors import MibenchError, Problem, suggest
from mibench.runs import compatibility
from mibench.runs.code import attack_code
from mibench.runs.draft import Draft, Origins, read_draft
from mibench.runs.request import RunNames, RunRequest, config_yaml
from mibench.runs.spec import EvalProtocol, FilteredWeights, RunSpec, Weights
from mibench.runs.surrogate import find_surrogate
from mibench.settings import Layer, Setting
from mibench.system.text_files import typed
from mibench.weights import cards as card_files
from mibench.weights.answer_filters import filter_settings
from mibench.weights.cards import CardFile
from mibench.weights.minimum_accuracy import refuse_weak
from mibench.weights.prior_class import prior_class


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        spec: what decides its results.
        attack, dataset: the objects that it names.
        target, judge, second_judge, prior, regressor, surrogate: files of weights; ``cards``: what their cards say, by
            kind.
        names: the names that were asked for.
        origins: ``"attack.steps"`` -> value and where it comes from, of every setting.
        units: the identities of each unit, in order.
        parties: the registered parties that take part; their code is part of the record.
        prior_queries: images that the training of the prior showed the victim, as its card says: 0 without a prior and
            for one that is made for every target, None where the card of another one does not say.
        config_yaml: what ``mibench run --config`` accepts to do the same again.
        draft: what of it is known without data and weights.
    """

    spec: RunSpec
    attack: Attack
    dataset: IdentitySplit
    target: CardFile
    judge: CardFile
    second_judge: CardFile | None
    prior: CardFile | None
    regressor: CardFile | None
    surrogate: CardFile | None
    cards: Mapping[str, Card]
    names: RunNames
    origins: Mapping[str, Setting]
    units: tuple[tuple[int, ...], ...]
    parties: tuple[registry.Entry, ...]
    prior_queries: int | None
    config_yaml: str
    draft: Draft

    def floor(self) -> Plan | None:
        """The run that this one is compared with: the same in everything but the attack. None: it is one itself.

        Raises:
            MibenchError: the protocol grants less than the floor needs, or has a budget that it exceeds.
        """
        draft = self.draft.floor()
        if draft is None:
            return None
        names = dataclasses.replace(draft.names, prior=None if self.spec.prior is None else self.spec.prior.card)
        draft = dataclasses.replace(draft, names=names)
        compatibility.check_target_access(draft.attack, self.cards["target"])
        if self.prior is not None:
            compatibility.check_prior(draft.attack, self.cards["prior"], self.cards["target"])
        spec = dataclasses.replace(
            self.spec,
            attack=draft.entry.name,
            attack_code=attack_code(draft.entry),
            attack_settings=draft.attack.recorded_settings(),
            preset=draft.preset,
            variant=None,
            surrogate=None,
        )
        others = {name: setting for name, setting in self.origins.items() if not name.startswith("attack.")}
        kinds = ("target", "judge", "second_judge", "prior", "regressor")
        files: dict[str, CardFile | None] = {kind: getattr(self, kind) for kind in kinds}
        return _plan(spec, draft, self.dataset, files, self.cards, _add_scope("attack", draft.attack_origins) | others)


def make_plan(request: RunRequest) -> Plan:
    """Resolve names, presets, settings, cards and data; nothing is loaded onto a device yet.

    Raises:
        MibenchError: invalid input. When both the data and the weights are missing, one line for each.
    """
    draft = read_draft(request)
    names = draft.names
    dataset, dataset_origins, files = _dataset_and_weights(draft)
    loaded = {kind: file.card() for kind, file in files.items()}
    for kind, card in loaded.items():
        compatibility.check_data(kind, card, dataset)
        if kind in ("target", "judge", "second_judge"):
            refuse_weak(card, names.min_accuracy)
    compatibility.check_target_access(draft.attack, loaded["target"])
    if (surrogate := find_surrogate(draft.attack, loaded["target"], dataset)) is not None:
        files["surrogate"] = surrogate
        loaded["surrogate"] = surrogate.card()
    draft = draft.settled(dataset)
    attack, protocol = draft.attack, draft.protocol
    weights = {kind: _weights(card) for kind, card in loaded.items()}
    prior_origins: Origins = {}
    if "prior" in loaded:
        compatibility.check_prior(attack, loaded["prior"], loaded["target"])
        of_prior = loaded["prior"]
        arguments, prior_origins = prior_arguments(of_prior.name, of_prior.architecture, of_prior.arguments, draft)
        weights["prior"] = dataclasses.replace(weights["prior"], arguments=arguments)
    spec = RunSpec(
        attack=draft.entry.name,
        attack_code=attack_code(draft.entry),
        attack_settings=attack.recorded_settings(),
        preset=draft.preset,
        variant=draft.variant,
        dataset=names.dataset,
        dataset_settings={name: setting.value for name, setting in dataset_origins.items()},
        dataset_digest=dataset.digest,
        target=weights["target"],
        judge=weights["judge"],
        prior=weights.get("prior"),
        regressor=weights.get("regressor"),
        surrogate=weights.get("surrogate"),
        second_judge=weights.get("second_judge"),
        protocol=protocol,
        seed=names.seed,
        precision=names.precision,
    )
    origins = _add_scope("attack", draft.attack_origins) | _add_scope("dataset", dataset_origins)
    origins |= _add_scope("prior", prior_origins) | _add_scope("protocol", draft.protocol_origins)
    return _plan(spec, draft, dataset, files, loaded, origins)


def _weights(card: Card) -> Weights:
    """What a run says of a set of weights; of a target whose answers are filtered also the filters."""
    unfiltered = Weights(
        card=card.name, architecture=card.architecture, sha256=card.weights.sha256, arguments=card.arguments
    )
    filters = filter_settings(card)
    return FilteredWeights(**vars(unfiltered), filters=filters) if filters else unfiltered


def _plan(
    spec: RunSpec,
    draft: Draft,
    dataset: IdentitySplit,
    files: Mapping[str, CardFile | None],
    loaded: Mapping[str, Card],
    origins: Origins,
) -> Plan:
    """The record, with what follows from the rest."""
    names = draft.names
    target, judge = files["target"], files["judge"]
    assert target is not None
    assert judge is not None
    parties = [
        draft.entry,
        registry.entry("dataset", spec.dataset),
        registry.entry("target", spec.target.architecture),
        *(registry.entry("defence", name) for name in filter_settings(loaded["target"])),
    ]
    if spec.surrogate is not None and spec.surrogate.architecture != spec.target.architecture:
        parties.append(registry.entry("target", spec.surrogate.architecture))
    if spec.prior is not None:
        parties.append(registry.entry("prior", spec.prior.architecture))
    return Plan(
        spec=spec,
        attack=draft.attack,
        dataset=dataset,
        target=target,
        judge=judge,
        second_judge=files.get("second_judge"),
        prior=files.get("prior"),
        regressor=files.get("regressor"),
        surrogate=files.get("surrogate"),
        cards=loaded,
        names=names,
        origins=origins,
        units=tuple(spec.protocol.units(draft.attack.unit_size)),
        parties=tuple(parties),
        prior_queries=_prior_queries(loaded.get("prior")),
        config_yaml=config_yaml(names, origins),
        draft=draft,
    )


def _add_scope(scope: str, origins: Mapping[str, Setting]) -> Origins:
    return {f"{scope}.{name}": setting for name, setting in origins.items()}


def _dataset_and_weights(draft: Draft) -> tuple[IdentitySplit, Origins, dict[str, CardFile]]:
    """The data and the files of weights, by kind.

    Raises:
        MibenchError: a line for each that is missing.
    """
    names, protocol = draft.names, draft.protocol
    problems: list[Problem] = []
    dataset: IdentitySplit | None = None
    origins: Origins = {}
    files: dict[str, CardFile] = {}
    kind: type[IdentitySplit] = registry.load("dataset", names.dataset)
    try:
        protocol_layer = Layer(f"protocol {protocol.name}", protocol.dataset)
        dataset, origins = config.resolve(kind, [protocol_layer, *draft.layers["dataset"]], scope="dataset")
    except MibenchError as error:
        problems += error.problems
    needed: dict[str, str | None] = {
        "target": names.target,
        "judge": names.judge or protocol.judge,
        "second_judge": protocol.second_judge,
        "prior": _prior_name(names, draft.attack, protocol),
        "regressor": protocol.regressor if isinstance(dataset, GroundTruth) else None,
    }
    for party, name in needed.items():
        if name is None:
            continue
        try:
            files[party] = card_files.find("judge" if party == "second_judge" else party, name, names.dataset)
        except MibenchError as error:
            problems += error.problems
    if problems or dataset is None:
        raise MibenchError.several(problems)
    return dataset, origins, files


def _prior_name(names: RunNames, attack: Attack, protocol: EvalProtocol) -> str:
    """The prior asked for, else the attack's own, else the protocol's; one made against a target is the target's."""
    name = names.prior or attack.prior or protocol.prior
    prior = CardName.complete(name, names.dataset)
    is_target_specific = (
        prior.tag is None
        and prior.architecture in registry.names("prior")
        and prior_class(prior.architecture).per_target
    )
    return f"{name}+{CardName.complete(names.target, names.dataset).as_tag}" if is_target_specific else name


def _prior_queries(prior: Card | None) -> int | None:
    if prior is None:
        return 0
    counted = (prior.measured or {}).get("queries_forward")
    if isinstance(counted, int):
        return counted
    return None if prior_class(prior.architecture).per_target else 0


def prior_arguments(
    card: str, architecture: str, given: Mapping[str, object], draft: Draft
) -> tuple[dict[str, object], Origins]:
    """The arguments ``given`` by the card of a prior with the protocol's and the run's on top.

    Names are checked here, values too where the prior has a ``check``.

    Raises:
        MibenchError: an unknown setting, or a value that the prior refuses.
    """
    protocol = draft.protocol
    of_protocol = Layer(f"protocol {protocol.title}", protocol.prior_settings.get(card, {}))
    layers = [of_protocol, *draft.layers["prior"]]
    arguments: dict[str, object] = dict(given)
    origins = {name: Setting(value, f"card {card}") for name, value in arguments.items()}
    kind = prior_class(architecture)
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
    kind.check(arguments, card)
    return arguments, origins
