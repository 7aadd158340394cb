"""What of a run is known without its data and weights: names, protocol, attack and their settings, checked.

An audit checks this much before it trains the judge and the prior of its run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mibench import registry
from mibench import settings as config
from mibench.api import Attack
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.runs import compatibility
from mibench.runs.budget import within_budget
from mibench.runs.protocol import check_metrics, choose_preset, load_protocol
from mibench.runs.request import RunNames, RunRequest, read_request
from mibench.runs.spec import EvalProtocol
from mibench.settings import Layer, Setting

Origins = dict[str, Setting]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The part of a plan that needs neither data nor weights.

    Attributes:
        entry: of the attack.
        names: the names that were asked for, the protocol's filled in.
        layers: scope -> what was set there, the weakest layer first.
        protocol, attack: with what was set on top; ``*_origins``: where each of their settings comes from.
        preset: the name of the attack's preset.
        variant: what ``NAME:VARIANT`` asked for on top of it; None: nothing.
    """

    entry: registry.Entry
    names: RunNames
    layers: Mapping[str, tuple[Layer, ...]]
    protocol: EvalProtocol
    protocol_origins: Origins
    attack: Attack
    attack_origins: Origins
    preset: str | None
    variant: str | None = None

    def settled(self, dataset: IdentitySplit) -> Draft:
        """With the number of identities in place of "all", and the attack as the protocol's budget lets it run.

        Raises:
            MibenchError: more identities than there are, or a budget that the attack exceeds.
        """
        protocol, origins = self.protocol.resolved(dataset.num_classes), dict(self.protocol_origins)
        if self.protocol.identities is None and not origins["identities"].by_user:
            all_of_them = f"all of {dataset.name} that {protocol.title} allows"
            origins["identities"] = Setting(protocol.identities, all_of_them)
        compatibility.check_identities(protocol, dataset)
        attack, attack_origins = within_budget(self.attack, self.attack_origins, protocol)
        return dataclasses.replace(
            self, protocol=protocol, protocol_origins=origins, attack=attack, attack_origins=attack_origins
        )

    def floor(self) -> Draft | None:
        """The draft of the run that this one, settled, is compared with; None: it is one itself.

        The floor takes the preset that was asked for, where it has one of that name, and every setting of the attack
        that a person asked for and that it has too (pool, candidates, truncation): both search the same candidates.

        Raises:
            MibenchError: the protocol grants less than the floor needs, or has a budget that it exceeds.
        """
        baseline = registry.role("baseline")
        if baseline is None or self.entry.name == baseline:
            return None
        entry = registry.entry("attack", baseline)
        known = set(config.setting_names(entry.load())) - set(config.setting_names(Attack))
        shared = [
            Layer(setting.origin, {name: setting.value}, by_user=True)
            for name, setting in self.attack_origins.items()
            if setting.by_user and name in known
        ]
        presets = config.attack_presets(baseline).presets
        preset = self.names.preset if self.names.preset in presets else None
        names = dataclasses.replace(self.names, attack=baseline, preset=preset)
        attack, origins, preset = _attack(entry, None, names, self.protocol, shared)
        attack, origins = within_budget(attack, origins, self.protocol)
        return dataclasses.replace(
            self, entry=entry, names=names, attack=attack, attack_origins=origins, preset=preset, variant=None
        )


def read_draft(request: RunRequest) -> Draft:
    """Resolve names, protocol, preset and the settings of the attack.

    Raises:
        MibenchError: an unknown name or setting, metrics that do not yield what the protocol demands, an attack that
            needs more of its victim than the protocol grants.
    """
    names, layers = read_request(request)
    entry, variant = registry.attack_entry(names.attack)
    protocol, protocol_origins, names = choose_protocol(names, layers["protocol"])
    attack, attack_origins, preset = _attack(entry, variant, names, protocol, layers["attack"])
    return Draft(
        entry=entry,
        names=names,
        layers=layers,
        protocol=protocol,
        protocol_origins=protocol_origins,
        attack=attack,
        attack_origins=attack_origins,
        preset=preset,
        variant=variant,
    )


def choose_protocol(names: RunNames, layers: Iterable[Layer]) -> tuple[EvalProtocol, Origins, RunNames]:
    """The protocol asked for, else the data set's own; the names then have it."""
    default: str = registry.load("dataset", names.dataset).protocol
    protocol, origins = load_protocol(names.protocol or default, tuple(layers))
    if names.protocol is None:
        origins["name"] = Setting(protocol.name, f"default of data set {names.dataset}")
    check_metrics(protocol)
    return protocol, origins, dataclasses.replace(names, protocol=names.protocol or default)


def _attack(
    entry: registry.Entry, variant: str | None, names: RunNames, protocol: EvalProtocol, layers: Iterable[Layer]
) -> tuple[Attack, Origins, str | None]:
    """The attack with its preset, its variant and what was set on top; the name of the preset."""
    file = config.attack_presets(names.attack if variant is None else entry.name)
    preset = choose_preset(entry.name, protocol, names.dataset, names.preset, file)
    kind: type[Attack] = entry.load()
    own = [file.presets[preset]] if preset else []
    if variant is not None:
        own.append(config.variant_layer(entry.name, variant, file))
    attack, origins = config.resolve(kind, [*own, *layers], scope="attack")
    if attack.unit_size < 1:
        raise MibenchError(f"attack.unit_size must be at least 1, got {attack.unit_size}")
    compatibility.check_protocol_access(attack, protocol)
    return attack, origins, preset
