"""What a person asks for: names and settings, from flags and from a configuration file, checked for their kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from mibench import registry
from mibench import settings as config
from mibench.errors import MibenchError, suggest
from mibench.records import AccessName
from mibench.settings import Layer, Setting
from mibench.system.canonical import JsonObject, plain
from mibench.system.precision import PRECISIONS, Precision
from mibench.system.strict_yaml import as_mapping
from mibench.system.text_files import shown

SCOPES = ("attack", "dataset", "prior", "protocol")
ACCESS: tuple[str, ...] = get_args(AccessName)
Settings = Mapping[str, Mapping[str, object]]  # scope -> name -> value


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a person asks for, on the command line, from Python, in a suite or through an audit.

    None means: not given, so the configuration file or the default decides.

    Attributes:
        judge: another set of weights than the protocol's judge on this data set (one trained on somebody's own data).
        min_accuracy: least test accuracy in [0, 1] of target and judge, by their cards; None means twice chance.
        access: the most that the adversary may ask of the victim (labels, scores, gradients): ``protocol.access``.
        settings: scope (attack, dataset, prior, protocol) -> values, as ``--set`` gives them.
        config: a file with the same fields, overridden by these fields.
    """

    attack: str | None = None
    target: str | None = None
    dataset: str | None = None
    protocol: str | None = None
    prior: str | None = None
    judge: str | None = None
    preset: str | None = None
    seed: int | None = None
    precision: str | None = None
    min_accuracy: float | None = None
    access: str | None = None
    settings: Settings = field(default_factory=dict)
    config: Path | None = None

    def as_plain(self) -> JsonObject:
        """The fields that were given, as JSON types."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        return given | ({} if self.config is None else {"config": str(self.config)})

    @classmethod
    def from_plain(cls, content: JsonObject) -> RunRequest:
        """The request whose :meth:`as_plain` this is."""
        return cls(**(content | ({"config": Path(content["config"])} if "config" in content else {})))


@dataclass(frozen=True, kw_only=True)
class RunNames:
    """The resolved names and numbers: flag, else file, else the default here. None leaves it to the rest of the run.

    Attributes:
        attack, target: by default those that the parties declare (:func:`mibench.registry.role`).
        protocol: None: the data set's own.
        prior: None: the attack's own, else the protocol's.
        judge: None: the protocol's.
        preset: None: the one that protocol and data set choose.
        min_accuracy: None: twice chance.
    """

    attack: str
    target: str
    dataset: str = "synthfaces"
    protocol: str | None = None
    prior: str | None = None
    judge: str | None = None
    preset: str | None = None
    seed: int = 0
    precision: Precision = "float32"
    min_accuracy: float | None = None


NAMES = tuple(field.name for field in dataclasses.fields(RunNames))


def read_request(request: RunRequest) -> tuple[RunNames, dict[str, tuple[Layer, ...]]]:
    """The resolved names, and what was set in each scope, the weakest layer first.

    Raises:
        MibenchError: a file that cannot be read, an unknown key or scope, a value of another kind than belongs there.
    """
    for scope in request.settings:
        if scope not in SCOPES:
            raise MibenchError(registry.unknown("scope of settings", scope, SCOPES))
    content = _read_file(request.config)
    from_file = {key: content[key] for key in NAMES if content.get(key) is not None}
    _check(from_file, f"{request.config}: ")
    asked = {key: value for key in NAMES if (value := getattr(request, key)) is not None}
    _check(asked)
    named = from_file | asked
    for party in ("attack", "target"):
        if party not in named:
            if (default := registry.role(f"default_{party}")) is None:
                raise MibenchError(
                    f"no {party} is named, and no installed package declares a default", cure=f"add --{party}"
                )
            named[party] = default
    names = config.adapter(RunNames).validate_python(named)
    settings, resolved = (_by_scope(content, block, request.config) for block in ("settings", "resolved"))
    if names.attack != content.get("attack", names.attack) or request.preset not in (None, content.get("preset")):
        resolved = {}  # what another attack or preset made of it
    origin = str(request.config)
    layers: dict[str, tuple[Layer, ...]] = {
        scope: (
            Layer(origin, resolved.get(scope, {})),
            Layer(origin, settings.get(scope, {}), by_user=True),
            Layer("--set", request.settings.get(scope, {}), by_user=True),
        )
        for scope in SCOPES
    }
    if request.access is not None:
        if (other := request.settings.get("protocol", {}).get("access", request.access)) != request.access:
            raise MibenchError(
                f"--access {request.access} and --set protocol.access={shown(other)} differ",
                cure="give one",
            )
        if request.access not in ACCESS:
            raise MibenchError(registry.unknown("access", request.access, ACCESS))
        layers["protocol"] += (Layer("--access", {"access": request.access}, by_user=True),)
    return names, layers


def config_yaml(names: RunNames, origins: Mapping[str, Setting]) -> str:
    """What ``mibench run --config`` accepts to do the same again.

    ``settings`` has what a person asked for, ``resolved`` the attack's other settings, as presets, defaults and a
    budget gave them (those of the other scopes follow from the names).
    """
    import yaml

    content: dict[str, object] = {key: value for key in NAMES if (value := getattr(names, key)) is not None}
    blocks: dict[str, dict[str, dict[str, object]]] = {"settings": {}, "resolved": {}}
    for name, setting in origins.items():
        scope, _, rest = name.partition(".")
        if scope == "attack" or setting.by_user:
            block = blocks["settings" if setting.by_user else "resolved"]
            block.setdefault(scope, {})[rest] = plain(setting.value)
    return yaml.safe_dump(content | blocks, sort_keys=False, allow_unicode=True)


def _read_file(path: Path | None) -> dict[str, object]:
    """The content of a ``--config`` file, with known keys only."""
    if path is None:
        return {}
    content: dict[str, object] = config.read_yaml(path)
    known = (*NAMES, "settings", "resolved")
    for key in content:
        if key not in known:
            raise MibenchError(f"{path}: unknown key {shown(key)}{suggest(key, known)} (known: {', '.join(known)})")
    return content


def _by_scope(content: Mapping[str, object], block: str, path: Path | None) -> Settings:
    """``settings`` or ``resolved`` of a file."""
    scopes = as_mapping(content.get(block), f"{path}: {block}")
    for scope in scopes:
        if scope not in SCOPES:
            raise MibenchError(f"{path}: {block}: {registry.unknown('scope', scope, SCOPES)}")
    return {scope: as_mapping(values, f"{path}: {block}.{scope}") for scope, values in scopes.items()}


def _check(names: Mapping[str, object], where: str = "") -> None:
    """Refuse another kind of value where a name or a number belongs. ``where`` begins the message."""
    for key, value in names.items():
        if key == "seed":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
                raise MibenchError(f"{where}seed must be a whole number from 0 to 2**63 - 1, got {shown(value)}")
        elif key == "min_accuracy":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise MibenchError(f"{where}min_accuracy is a share in [0, 1], got {shown(value)}")
        elif not isinstance(value, str) or not value:
            raise MibenchError(f"{where}{key}: expected a name, got {shown(value)}")
        elif key == "precision" and value not in PRECISIONS:
            raise MibenchError(f"{where}{registry.unknown('precision', value, PRECISIONS)}")
