"""Evaluation protocols: YAML files in the packages that catalogues name under ``protocol``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mibench import registry, settings
from mibench.errors import MibenchError
from mibench.metrics import DEFAULT_METRICS, METRICS
from mibench.runs.spec import EvalProtocol
from mibench.settings import Layer, PresetFile, Setting
from mibench.system.strict_yaml import as_mapping
from mibench.system.text_files import shown

DEFAULT = "default"  # in protocol.metrics: the default groups, to which others are added


def protocol_files() -> dict[str, tuple[str, str]]:
    """Name -> (source for messages, YAML text) of every protocol on offer."""
    return registry.yaml_files("protocol")


def load_protocol(name: str, layers: Sequence[Layer] = ()) -> tuple[EvalProtocol, dict[str, Setting]]:
    """A protocol with a run's own changes on top; a changed one says so in its name."""
    known = protocol_files()
    if name not in known:
        raise MibenchError(registry.unknown("protocol", name, known))
    source, text = known[name]
    base = Layer(source, as_mapping(settings.parse_yaml(text, source), source))
    original, _ = settings.resolve(EvalProtocol, [base], scope="protocol")
    protocol, origins = settings.resolve(EvalProtocol, [base, *layers], scope="protocol")
    original, protocol = (dataclasses.replace(p, metrics=_spelled_out(p.metrics)) for p in (original, protocol))
    if protocol.digest_fields() != original.digest_fields():
        protocol = dataclasses.replace(protocol, name=f"{protocol.name} (changed)")
    return protocol, origins


def choose_preset(attack: str, protocol: EvalProtocol, dataset: str, asked: str | None, file: PresetFile) -> str | None:
    """The preset that an attack starts from.

    1. The one that a person asked for.
    2. The protocol's: ``preset_for`` the attack, else its tier ``preset`` where the attack has it. On a data set that
       the protocol is not defined on, the attack's variant for that data set goes before it.
    3. The attack's default; None where it has no presets.

    Raises:
        MibenchError: the attack has no preset of that name.
    """
    tier = protocol.preset if protocol.preset in file.presets else None
    choices = [protocol.preset_for.get(attack, tier), file.dataset.get(dataset)]
    if dataset not in protocol.datasets:
        choices.reverse()
    name = asked or choices[0] or choices[1] or file.default
    if name is not None and name not in file.presets:
        raise MibenchError(registry.unknown(f"preset of attack {attack!r}", name, file.presets))
    return name


def check_metrics(protocol: EvalProtocol) -> None:
    """Refuse metrics that nobody knows, and demands that the chosen metrics cannot meet: before anything is computed.

    Raises:
        MibenchError: an unknown group; an estimate in ``required`` that no chosen group yields, with the group to add.
            An estimate that no built-in group yields may come from a third party's group, where one is chosen.
    """
    from mibench.metrics.declared import declared_estimates  # loads torch, which showing a protocol need not

    groups = protocol.metrics or DEFAULT_METRICS
    known = {*METRICS, *registry.names("metric")}
    for field, names in (("metrics", groups), ("diagnostics", protocol.diagnostics)):
        for name in names:
            if name not in known:
                raise MibenchError(f"protocol.{field}: {registry.unknown('metric', name, known)}")
    declared = declared_estimates(dict.fromkeys((*groups, *METRICS)))
    unknown = [name for name in groups if not declared[name]]  # without a description: not known before they have run
    made = {estimate for name in groups for estimate in declared[name]}
    makers = {estimate: name for name, estimates in declared.items() for estimate in estimates}
    lacking = [name for name in protocol.required if name not in made and not (unknown and name not in makers)]
    if not lacking:
        return
    for name in lacking:
        if name not in makers:
            raise MibenchError(f"protocol.required: {registry.unknown('estimate', name, makers)}")
    wanted = ", ".join([*groups, *dict.fromkeys(makers[name] for name in lacking)])
    raise MibenchError(
        f"protocol {protocol.title!r} demands {', '.join(lacking)}, which its metrics leave out "
        f"({shown(list(groups))})",
        cure=f"--set 'protocol.metrics=[{wanted}]', or name less in protocol.required",
    )


def _spelled_out(groups: Sequence[str]) -> tuple[str, ...]:
    """Groups of metrics with the default ones in place of the word ``default``; each once."""
    metrics_of_groups = (DEFAULT_METRICS if name == DEFAULT else (name,) for name in groups)
    return tuple(dict.fromkeys(name for part in metrics_of_groups for name in part))
