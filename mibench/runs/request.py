"""What a person asks for: names and settings, from flags and from a configuration file, checked for their kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mibench import registry
from mibench import settings as config
from mibench.errors import MibenchError, suggest
from mibench.system.precision import PRECISIONS
from mibench.system.strict_yaml import as_mapping
from mibench.system.text_files import shown

SCOPES = ("attack", "dataset", "prior", "protocol")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks for. None means: not said, so the configuration file or the default decides.

    Attributes:
        judge: another set of weights than the protocol's judge on this data set (one trained on somebody's own data).
        min_accuracy: least test accuracy in [0, 1] of target and judge, by their cards; None means twice chance.
        settings: scope (attack, dataset, prior, protocol) -> values, as ``--set`` gives them.
        config: a file with the same fields, weaker than what is said here.
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
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    config: Path | None = None


DEFAULTS = {
    "attack": "dmmia",
    "target": "vgg16",
    "dataset": "synthfaces",
    "protocol": None,  # the data set's own
    "prior": None,
    "judge": None,  # the protocol's
    "preset": None,
    "seed": 0,
    "precision": "float32",
    "min_accuracy": None,  # twice chance
}


def names_of(request: Request) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The names that hold (flag, else file, else default) and the settings of the file, by scope.

    Raises:
        MibenchError: a file that cannot be read, an unknown key, a value of another kind than belongs there.
    """
    from_file, settings = _read_file(request.config)
    _check({key: value for key, value in from_file.items() if value is not None}, f"{request.config}: ")
    chosen: dict[str, Any] = {}
    for key, default in DEFAULTS.items():
        said, kept = getattr(request, key), from_file.get(key)  # null, like a missing key, leaves it to the default
        chosen[key] = said if said is not None else default if kept is None else kept
    _check({key: value for key, value in chosen.items() if value is not None})
    return chosen, settings


def _read_file(path: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Names and settings of a ``--config`` file."""
    if path is None:
        return {}, {}
    content = config.read_yaml(path)
    known = (*DEFAULTS, "settings")
    for key in content:
        if key not in known:
            raise MibenchError(f"{path}: unknown key {shown(key)}{suggest(key, known)} (known: {', '.join(known)})")
    settings = {}
    for scope, values in as_mapping(content.pop("settings", None), f"{path}: settings").items():
        if scope not in SCOPES:
            raise MibenchError(f"{path}: settings: {registry.unknown('scope', scope, SCOPES)}")
        settings[scope] = as_mapping(values, f"{path}: settings.{scope}")
    return content, settings


def _check(names: Mapping[str, Any], where: str = "") -> None:
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
