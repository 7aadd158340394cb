"""Evaluation protocols: YAML files in the packages that catalogues name under ``protocol``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import resources

from mibench import config, registry
from mibench.config import Layer, Setting
from mibench.errors import MibenchError
from mibench.spec import EvalProtocol


def protocol_files() -> dict[str, tuple[str, str]]:
    """Name -> (source for messages, YAML text) of every protocol on offer.

    Raises:
        MibenchError: two distributions offer one name.
    """
    found: dict[str, tuple[str, str]] = {}
    for entry in registry.catalogue()["protocol"].values():
        for file in sorted(resources.files(entry.address).iterdir(), key=lambda f: f.name):
            name = file.name.removesuffix(".yaml")
            if name == file.name:
                continue
            if name in found:
                raise MibenchError(
                    f"the protocol {name!r} is offered twice, by {found[name][0]} and {entry.distribution}"
                )
            found[name] = (f"{entry.distribution}: protocol {file.name}", file.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def load_protocol(name: str, layers: Sequence[Layer] = ()) -> tuple[EvalProtocol, dict[str, Setting]]:
    """A protocol with a run's own changes on top; a changed one says so in its name."""
    known = protocol_files()
    if name not in known:
        raise MibenchError(registry.unknown("protocol", name, known))
    source, text = known[name]
    base = Layer(source, config.parse_yaml(text, source) or {})
    original, _ = config.resolve(EvalProtocol, [base], scope="protocol")
    protocol, origins = config.resolve(EvalProtocol, [base, *layers], scope="protocol")
    if protocol.identity() != original.identity():
        protocol = dataclasses.replace(protocol, name=f"{protocol.name} (changed)")
    return protocol, origins
