"""Configuration: defaults < preset < ``--config`` file < ``--set``, strict, remembering where each value came from.

Settings belong to frozen dataclasses (attacks, data sets, recipes, protocols). A layer is a mapping of setting names to
values, nested or dotted; an unknown name is refused with a suggestion, a value of the wrong type names its layer.

Preset files are YAML beside the attacks, ``<package of the attack>/presets/<attack>.yaml``::

    default: recommended                # used where neither a person nor the protocol names a preset
    dataset: {celeba: paper}            # optional: variants for data sets
    presets:
      recommended:
        extends: paper                  # optional: start from another preset of this file
        steps: {value: 70, source: "section 5.1"}   # or simply  steps: 70
    variants:                           # optional, of an attack: NAME:averaged changes this on top of any preset
      averaged:
        draws: {value: 8, source: "..."}
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import pydantic

from mibench.errors import MibenchError, suggest
from mibench.system.canonical import JsonObject
from mibench.system.strict_yaml import as_mapping
from mibench.system.strict_yaml import parse_yaml as parse_yaml
from mibench.system.strict_yaml import read_yaml as read_yaml
from mibench.system.text_files import resource_text, shown, typed

from . import registry

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A resolved value and where it came from.

    Attributes:
        value: as the dataclass holds it.
        origin: for a person to read: ``default``, ``preset paper (section 5.1)``, a file, ``--set``.
        by_user: whether a person asked for this value (``--set``, a configuration file); nothing else may be read off
            ``origin``.
    """

    value: Any
    origin: str
    by_user: bool = False


@dataclass(frozen=True)
class Layer:
    """Values from one source. ``sources`` holds the finer origin of single values (a preset's citations).

    ``by_user``: whether a person wrote these values, rather than a preset, a protocol or a card.
    """

    origin: str
    values: Mapping[str, object]
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    by_user: bool = False

    def origin_of(self, name: str) -> str:
        """``preset paper (section 5.1)``."""
        source = self.sources.get(name)
        return f"{self.origin} ({source})" if source else self.origin


def flatten(values: Mapping[str, object], kind: type | None = None) -> dict[str, object]:
    """Nested mappings to dotted names, as deep as ``kind`` has dataclass fields (a mapping field stays a value)."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        head, _, rest = str(key).partition(".")
        inner = _nested(kind, head)
        if inner is not None and rest:
            flat |= {f"{head}.{name}": item for name, item in flatten({rest: value}, inner).items()}
        elif inner is not None and isinstance(value, Mapping):
            flat |= {f"{head}.{name}": item for name, item in flatten(value, inner).items()}
        else:
            flat[str(key)] = value
    return flat


def _nested_default(kind: type | None, name: str) -> Any:
    """The default of the field ``name`` of ``kind`` where that is itself a dataclass, else None."""
    if kind is None or not dataclasses.is_dataclass(kind):
        return None
    for field in dataclasses.fields(kind):
        if field.name == name:
            default = field.default_factory() if callable(field.default_factory) else field.default
            return default if dataclasses.is_dataclass(default) and not isinstance(default, type) else None
    return None


def _nested(kind: type | None, name: str) -> type | None:
    """The dataclass that the field ``name`` of ``kind`` holds, if it holds one."""
    default = _nested_default(kind, name)
    return None if default is None else type(default)


def setting_names(kind: type) -> tuple[str, ...]:
    """Dotted names of every setting of a dataclass."""
    names: list[str] = []
    for field in dataclasses.fields(kind):
        inner = _nested(kind, field.name)
        names += [f"{field.name}.{name}" for name in setting_names(inner)] if inner else [field.name]
    return tuple(names)


def adapter(kind: type[T]) -> pydantic.TypeAdapter[T]:
    """The validator of a dataclass; building one costs milliseconds, so each is built once."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = pydantic.TypeAdapter(kind)
    result: pydantic.TypeAdapter[T] = _ADAPTERS[kind]
    return result


_ADAPTERS: dict[type, pydantic.TypeAdapter[Any]] = {}


def resolve(kind: type[T], layers: Iterable[Layer], *, scope: str) -> tuple[T, dict[str, Setting]]:
    """Build ``kind`` from its defaults and ``layers`` (later ones win).

    Args:
        kind: a dataclass.
        layers: in order of precedence, weakest first.
        scope: how a person addresses these settings (``attack``, ``dataset`` ...), for messages.

    Returns:
        The instance and, for every dotted setting, its value and origin.

    Raises:
        MibenchError: unknown setting, missing setting, or a value of the wrong type or range.
    """
    known = setting_names(kind)
    origins = dict.fromkeys(known, "default")
    by_user = dict.fromkeys(known, False)
    chosen: dict[str, object] = {}
    for layer in layers:
        for name, value in flatten(layer.values, kind).items():
            if name not in origins:
                raise MibenchError(
                    f"unknown setting '{scope}.{typed(name)}' from {layer.origin}{suggest(name, known)} "
                    f"(known: {', '.join(known)})"
                )
            check_value(value, f"{scope}.{name}", layer.origin)
            chosen[name] = value
            origins[name] = layer.origin_of(name)
            by_user[name] = layer.by_user
    missing = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in chosen
    ]
    if missing:
        raise MibenchError(f"{scope}.{missing[0]} has no default", cure=f"add --set {scope}.{missing[0]}=VALUE")
    instance = _build(kind, chosen, origins, scope)
    for name, given in chosen.items():
        resolved = _value(instance, name)
        check_value(resolved, f"{scope}.{name}", origins[name])  # again: the text "nan" has become a number by now
        if _bool_given_for_number(given, resolved):
            raise MibenchError(f"{scope}.{name}: expected a number, got {shown(given)} (from {origins[name]})")
    return instance, {name: Setting(_value(instance, name), origins[name], by_user[name]) for name in known}


def check_value(value: object, setting_name: str, origin: str) -> None:
    """Reject numbers that are not finite or need more than 64 bits, and null characters in text.

    Args:
        value: a setting, lists and mappings of settings included.
        setting_name, origin: which one and where it comes from, for the message.

    Raises:
        MibenchError: with the place, the value and the origin.
    """
    problem, cure = None, ""
    if isinstance(value, float) and not math.isfinite(value):
        problem = "must be a finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        problem = "is too large a number"
    elif isinstance(value, str) and "\0" in value:
        problem, cure = "holds a null character", "take it out"
    if problem is not None:
        raise MibenchError(f"{setting_name}: {problem}, got {shown(value)} (from {origin})", cure=cure)
    if isinstance(value, Mapping):
        for item in (*value.keys(), *value.values()):
            check_value(item, setting_name, origin)
    elif isinstance(value, list | tuple):
        for item in value:
            check_value(item, setting_name, origin)


def _bool_given_for_number(given: object, parsed: object) -> bool:
    """Whether a boolean was parsed as 1 or 0, in a list too: ``true`` is no number of steps."""
    if isinstance(given, list | tuple) and isinstance(parsed, list | tuple):
        return any(_bool_given_for_number(one, other) for one, other in zip(given, parsed, strict=False))
    return isinstance(given, bool) and isinstance(parsed, int | float) and not isinstance(parsed, bool)


def _build(kind: type[T], chosen: Mapping[str, object], origins: Mapping[str, str], scope: str) -> T:
    nested: JsonObject = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if (start := _nested_default(kind, field.name)) is not None:
            nested[field.name] = dataclasses.asdict(start)
    for name, value in chosen.items():
        target = nested
        *path, last = name.split(".")
        for part in path:
            target = target[part]
        target[last] = value
    try:
        with _contained(f"{scope} {kind.__name__}"):
            return adapter(kind).validate_python(nested)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        setting_name = ".".join(str(part) for part in first["loc"])
        origin = next((origins[n] for n in origins if setting_name == n or setting_name.startswith(f"{n}.")), "")
        where = f"{scope}.{setting_name}" if setting_name else scope
        given = "" if isinstance(first["input"], dict) and not setting_name else f", got {shown(first['input'])}"
        reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        raise MibenchError(
            f"{where}: {reason[:1].lower()}{reason[1:]}{given}{f' (from {origin})' if origin else ''}"
        ) from error
    except (ValueError, ArithmeticError) as error:
        raise MibenchError(f"{scope}: {error}") from error


@contextmanager
def _contained(whose: str) -> Iterator[None]:
    """Somebody's class looks at its settings; without torch, in a listing, there is nothing that it could change."""
    if "torch" not in sys.modules:
        yield
        return
    from mibench.system.foreign_code import contained

    with contained(whose, "when it is built", seeds=True):
        yield


def _value(instance: object, dotted: str) -> object:
    for part in dotted.split("."):
        instance = getattr(instance, part)
    return instance


def parse_assignments(assignments: Iterable[str], scopes: Iterable[str]) -> dict[str, dict[str, object]]:
    """``attack.steps=300`` -> ``{"attack": {"steps": 300}}``; values are YAML (``1e-3``, ``[1, 2]``, ``true``).

    Raises:
        MibenchError: no ``=``, an unknown scope (with a suggestion), or one setting given twice.
    """
    allowed = tuple(scopes)
    settings: dict[str, dict[str, object]] = {scope: {} for scope in allowed}
    for text in assignments:
        name, equals, value = text.partition("=")
        beginning = typed(text)
        scope, dot, setting = name.strip().partition(".")
        if not equals or not dot or not setting:
            raise MibenchError(f"--set {beginning}: expected SCOPE.NAME=VALUE, such as {allowed[0]}.NAME=VALUE")
        if scope not in settings:
            raise MibenchError(
                f"--set {beginning}: unknown scope {shown(scope)}{suggest(scope, allowed)} "
                f"(known: {', '.join(allowed)})"
            )
        if setting in settings[scope]:
            raise MibenchError(f"--set {typed(f'{scope}.{setting}')} is given twice", cure="keep one of them")
        settings[scope][setting] = parse_yaml(value, f"--set {beginning}")
    return settings


@dataclass(frozen=True)
class PresetFile:
    """The presets of one attack.

    Attributes:
        presets: name -> layer: the tiers that protocols name, variants for data sets, others.
        default: the one that is used where neither a person nor the protocol names one.
        dataset: data set -> the variant for it.
        variants: name -> what ``ATTACK:NAME`` changes on top of whichever preset is used.
    """

    presets: Mapping[str, Layer]
    default: str | None = None
    dataset: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variants: Mapping[str, Layer] = dataclasses.field(default_factory=dict)


def attack_presets(attack: str) -> PresetFile:
    """Read the presets of a registered attack; an attack without a file has none."""
    return presets_of("attack", attack)


def variant_layer(attack: str, variant: str, file: PresetFile) -> Layer:
    """What a variant of an attack changes.

    Raises:
        MibenchError: the attack has no such variant.
    """
    if variant in file.presets:
        raise MibenchError(
            f"{variant!r} is a preset of attack {attack!r}, no variant",
            cure=f"name it with --preset {variant}",
        )
    if variant not in file.variants:
        raise MibenchError(registry.unknown(f"variant of attack {attack!r}", variant, file.variants))
    return file.variants[variant]


def presets_of(kind: str, name: str) -> PresetFile:
    """Read the presets of a registered attack or defence; one without a file has none."""
    package = f"{registry.entry(kind, name).package}.presets"
    try:
        file = resources.files(package) / f"{name}.yaml"
    except ModuleNotFoundError:
        return PresetFile({})
    if not file.is_file():
        return PresetFile({})
    source = f"presets/{name}.yaml"
    content = as_mapping(parse_yaml(resource_text(file, source), source), source)
    known = ("presets", "default", "dataset", "variants")
    for key in content:
        if key not in known:
            raise MibenchError(f"{source}: unknown key {key!r}{suggest(key, known)}")
    raw, changes = (
        {name: as_mapping(v, f"{source}: {name}") for name, v in as_mapping(content.get(block), source).items()}
        for block in ("presets", "variants")
    )
    if both := sorted(raw.keys() & changes.keys()):
        raise MibenchError(f"{source}: {both[0]!r} names a preset and a variant", cure="rename one of them")
    return PresetFile(
        {name: _preset_layer(name, raw, source) for name in raw},
        content.get("default"),
        as_mapping(content.get("dataset"), f"{source}: dataset"),
        {name: _preset_layer(name, changes, source, word="variant") for name in changes},
    )


def _preset_layer(
    name: str,
    raw: Mapping[str, Mapping[str, object]],
    source: str,
    seen: tuple[str, ...] = (),
    *,
    word: str = "preset",
) -> Layer:
    if name not in raw:
        raise MibenchError(f"{source}: {registry.unknown(word, name, raw)}")
    if name in seen:
        raise MibenchError(f"{source}: the {word}s {' and '.join((*seen, name))} extend each other")
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for key, value in raw[name].items():
        if key == "extends":
            base = _preset_layer(str(value), raw, source, (*seen, name), word=word)
            sources = {k: v for k, v in base.sources.items() if k not in values} | sources
            values = {**base.values, **values}
        elif isinstance(value, dict) and "value" in value and set(value) <= {"value", "source"}:
            values[key] = value["value"]
            sources[key] = str(value.get("source", ""))
        else:
            values[key] = value
            sources.pop(key, None)
    return Layer(f"{word} {name}", values, {k: v for k, v in sources.items() if v})
