"""Evaluation protocols: YAML files in the packages that catalogues name under ``protocol``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mibench import registry, settings
from mibench.errors import MibenchError
from mibench.metrics import DEFAULT_METRICS, METRICS
from mibench.runs.spec import EvalProtocol
from mibench.settings import Layer, Setting
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


def check_metrics(protocol: EvalProtocol) -> None:
    """Refuse metrics that nobody knows, and demands that the chosen metrics cannot meet: before anything is computed.

    Raises:
        MibenchError: an unknown group; an estimate in ``required`` that no chosen group yields, with the group to add.
    """
    from mibench.metrics.declared import declared_estimates  # loads torch, which showing a protocol need not

    groups = protocol.metrics or DEFAULT_METRICS
    known = {*METRICS, *registry.names("metric")}
    for name in groups:
        if name not in known:
            raise MibenchError(f"protocol.metrics: {registry.unknown('metric', name, known)}")
    declared = declared_estimates(dict.fromkeys((*groups, *METRICS)))
    if not all(declared[name] for name in groups):
        return  # what a metric without a description yields is not known before it has run
    made = {estimate for name in groups for estimate in declared[name]}
    lacking = [name for name in protocol.required if name not in made]
    if not lacking:
        return
    makers = {estimate: name for name, estimates in declared.items() for estimate in estimates}
    for name in lacking:
        if name not in makers:
            raise MibenchError(f"protocol.required: {registry.unknown('estimate', name, makers)}")
    wanted = ", ".join([*groups, *dict.fromkeys(makers[name] for name in lacking)])
    raise MibenchError(
        f"protocol {protocol.title!r} demands {', '.join(lacking)}, which its metrics leave out "
        f"({shown(list(groups))}): --set 'protocol.metrics=[{wanted}]', or name less in protocol.required"
    )


def _spelled_out(groups: Sequence[str]) -> tuple[str, ...]:
    """Groups of metrics with the default ones in place of the word ``default``; each once."""
    each = (DEFAULT_METRICS if name == DEFAULT else (name,) for name in groups)
    return tuple(dict.fromkeys(name for part in each for name in part))
