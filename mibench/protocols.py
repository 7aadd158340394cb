"""Evaluation protocols: YAML files in the packages that catalogues name under ``protocol``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mibench import config, registry
from mibench.config import Layer, Setting
from mibench.errors import MibenchError
from mibench.metrics import DEFAULT_METRICS
from mibench.spec import EvalProtocol

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
    base = Layer(source, config.parse_yaml(text, source) or {})
    original, _ = config.resolve(EvalProtocol, [base], scope="protocol")
    protocol, origins = config.resolve(EvalProtocol, [base, *layers], scope="protocol")
    original, protocol = (dataclasses.replace(p, metrics=_spelled_out(p.metrics)) for p in (original, protocol))
    if protocol.identity() != original.identity():
        protocol = dataclasses.replace(protocol, name=f"{protocol.name} (changed)")
    return protocol, origins


def _spelled_out(groups: Sequence[str]) -> tuple[str, ...]:
    """Groups of metrics with the default ones in place of the word ``default``; each once."""
    each = (DEFAULT_METRICS if name == DEFAULT else (name,) for name in groups)
    return tuple(dict.fromkeys(name for part in each for name in part))
