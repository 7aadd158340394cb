"""Suites: YAML files that span a matrix of runs.

A file names lists along :data:`AXES` and values that hold everywhere::

    name: mine
    protocol: standard                     # as for `mibench run`; dataset, precision, min_accuracy, access likewise
    attacks:
      - floor
      - {attack: dmmia, label: no memory, settings: {attack: {lambda_imr: 0, lambda_idr: 0}}}
    targets: [vgg16, ir152]
    defences: [none, negls]                # optional: vgg16, vgg16+negls, ir152 ...; tags of the targets' cards
    seeds: [0, 1, 2]
    settings: {protocol: {identities: 20}} # of every cell; those of an attack win
    adaptive: true                         # optional: each defence under the attacks that it declares as adapted to it
    exclude: [{attack: no memory, target: ir152}]
    compare: {reference: dmmia, metrics: [acc1]} # what the comparison at the end tests (by: defence, the defences)

Whether a cell can start (its attack is known, its weights are there) is not asked here: one that cannot is a row of the
table, not a mistake of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mibench import registry
from mibench import settings as config
from mibench.errors import MibenchError, suggest
from mibench.records import PLAIN_NAMES, is_plain_name
from mibench.results import COMPARED_BY, ComparedBy
from mibench.runs.request import SCOPES, RunRequest, Settings
from mibench.system.canonical import JsonObject
from mibench.system.text_files import shown

from .adaptive import adaptive_cells
from .cell import AXES, Axis, Cell

COMMON = ("protocol", "dataset", "precision")
KEYS = (
    *("name", "description", *COMMON, "min_accuracy", "access"),
    *(axis.key for axis in AXES),
    *("defences", "adaptive", "settings", "exclude", "compare"),
)
UNDEFENDED = "none"  # in the list of defences
MATCHED = (*(axis.field for axis in AXES), "label", "preset", "prior")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A matrix, expanded: its cells in the order of the file, the first axis changing slowest.

    Attributes:
        reference, metrics, by: what the comparison of the complete cells tests, as ``mibench compare`` takes it.
    """

    name: str
    description: str
    protocol: str | None
    cells: tuple[Cell, ...]
    reference: str | None = None
    metrics: tuple[str, ...] = ()
    by: ComparedBy = "attack"


def load_suite(wanted: str) -> Suite:
    """A suite by the path of its file (``mine.yaml``) or by the name of a registered one (``smoke``).

    Raises:
        MibenchError: no such file or name, or a mistake in the file.
    """
    path = Path(wanted)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return parse_suite(config.read_yaml(path), str(path), path.stem)
    known = registry.yaml_files("suite")
    if wanted not in known:
        raise MibenchError(f"{registry.unknown('suite', wanted, known)}; a suite of yours is a path that ends in .yaml")
    source, text = known[wanted]
    return parse_suite(config.parse_yaml(text, source), source, wanted)


def parse_suite(content: object, source: str, name: str) -> Suite:
    """Check and expand the contents of a file.

    Args:
        content: what the YAML holds.
        source: names the file in messages.
        name: of the suite when the file gives none.
    """
    fields = _mapping(content, source)
    _known(fields, KEYS, source)
    common: JsonObject = {key: _text(fields[key], f"{source}: {key}") for key in COMMON if fields.get(key) is not None}
    if (least := fields.get("min_accuracy")) is not None:
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            raise MibenchError(f"{source}: min_accuracy: expected a share in [0, 1], got {shown(least)}")
        common["min_accuracy"] = least
    settings = _settings(fields.get("settings"), f"{source}: settings")
    if fields.get("defences") is not None:
        fields = {**fields, "targets": _defended(fields, source)}
    if fields.get("access") is not None:
        access = _text(fields["access"], f"{source}: access")
        if (other := settings.setdefault("protocol", {}).setdefault("access", access)) != access:
            raise MibenchError(
                f"{source}: access {access} and settings.protocol.access {shown(other)} differ", cure="give one"
            )
    entries = [_entries(fields, axis, source) for axis in AXES]
    cells = tuple(_cell(choice, common, settings) for choice in itertools.product(*entries))
    adaptive = fields.get("adaptive", False)
    if not isinstance(adaptive, bool):
        raise MibenchError(f"{source}: adaptive: expected true or false, got {shown(adaptive)}")
    if adaptive:
        cells += adaptive_cells(cells)
    title = _text(fields.get("name", name), f"{source}: name")
    if not is_plain_name(title):
        raise MibenchError(f"{source}: name: it becomes a folder: {PLAIN_NAMES}; got {shown(title)}")
    kept = _without(cells, fields.get("exclude"), f"{source}: exclude")
    if not kept:
        raise MibenchError(f"{source}: nothing is left to run: every cell is excluded", cure="exclude fewer")
    asked = _mapping(fields.get("compare"), f"{source}: compare")
    _known(asked, ("reference", "metrics", "by"), f"{source}: compare")
    by = next((by for by in COMPARED_BY if by == asked.get("by", "attack")), None)
    if by is None:
        raise MibenchError(
            f"{source}: compare.by: runs are not compared by {shown(asked['by'])}",
            cure=f"choose one of {', '.join(COMPARED_BY)}",
        )
    metrics = asked.get("metrics") or []
    if not isinstance(metrics, list):
        raise MibenchError(f"{source}: compare.metrics: expected a list of metrics, got {shown(metrics)}")
    return Suite(
        reference=_text(asked["reference"], f"{source}: compare.reference") if asked.get("reference") else None,
        metrics=tuple(_text(name, f"{source}: compare.metrics") for name in metrics),
        by=by,
        name=title,
        description=" ".join(str(fields.get("description", "")).split()),
        protocol=common.get("protocol"),
        cells=kept,
    )


def _cell(choice: Sequence[JsonObject], common: JsonObject, settings: Settings) -> Cell:
    fields: JsonObject = dict(common)
    merged = {scope: dict(values) for scope, values in settings.items()}
    for entry in choice:
        fields |= entry
        for scope, values in entry.get("settings", {}).items():
            merged.setdefault(scope, {}).update(values)
    label = fields.pop("label", None) or fields["attack"]
    return Cell(label=str(label), request=RunRequest(**{**fields, "settings": merged}))


def _entries(fields: Mapping[str, object], axis: Axis, source: str) -> list[JsonObject]:
    """The values along an axis, each as the fields of a request that it fills."""
    location = f"{source}: {axis.key}"
    given = fields.get(axis.key, None if axis.default is None else list(axis.default))
    if not isinstance(given, list) or not given:
        raise MibenchError(f"{location}: expected a list of at least one {axis.field}, got {shown(given)}")
    entries = [_entry(item, axis, f"{location}[{number}]") for number, item in enumerate(given)]
    names = [entry.get("label", entry[axis.field]) for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        cure = "give each a label of its own" if "label" in axis.details else "remove one"
        raise MibenchError(f"{location}: {twice!r} stands twice", cure=cure)
    return entries


def _defended(fields: Mapping[str, object], source: str) -> list[str]:
    """The names of all targets under all defences: each target as it is for ``none``, else with the defence's tag."""
    axis = Axis("defences", "defence")
    tags = [str(entry["defence"]) for entry in _entries(fields, axis, source)]
    targets = next(axis for axis in AXES if axis.field == "target")
    names = [str(entry["target"]) for entry in _entries(fields, targets, source)]
    for name in names:
        if "+" in name:
            raise MibenchError(
                f"{source}: targets: {shown(name)} has a tag already",
                cure="leave it out of a suite of defences",
            )
    return [name if tag == UNDEFENDED else f"{name}+{tag}" for name in names for tag in tags]


def _entry(item: object, axis: Axis, location: str) -> dict[str, object]:
    if not (isinstance(item, Mapping) and axis.details):
        return {axis.field: _value(item, axis, location)}
    entry = _mapping(item, location)
    _known(entry, (axis.field, *axis.details), location)
    if axis.field not in entry:
        raise MibenchError(f"{location}: it needs the key {axis.field!r}")
    result: dict[str, object] = {axis.field: _value(entry[axis.field], axis, location)}
    for detail in axis.details:
        if entry.get(detail) is not None:
            where = f"{location}.{detail}"
            read = _settings if detail == "settings" else _text
            result[detail] = read(entry[detail], where)
    return result


def _value(item: object, axis: Axis, location: str) -> object:
    if axis.kind is int:
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise MibenchError(f"{location}: a {axis.field} is a whole number from 0, got {shown(item)}")
        return item
    return _text(item, location)


def _settings(given: object, location: str) -> dict[str, dict[str, object]]:
    settings = _mapping(given, location)
    _known(settings, SCOPES, location)
    return {scope: _mapping(values, f"{location}.{scope}") for scope, values in settings.items()}


def _without(cells: tuple[Cell, ...], given: object, location: str) -> tuple[Cell, ...]:
    """The cells that no entry of ``exclude`` matches. An entry that matches none is a typing mistake."""
    if given is None:
        return cells
    if not isinstance(given, list):
        raise MibenchError(f"{location}: expected a list of mappings such as {{attack: NAME, target: NAME}}")
    dropped: set[int] = set()
    for number, item in enumerate(given):
        where = f"{location}[{number}]"
        pattern = _mapping(item, where)
        _known(pattern, MATCHED, where)
        if not pattern:
            raise MibenchError(f"{where}: an empty entry would exclude everything", cure="remove it")
        for field, value in pattern.items():
            _check_pattern(cells, field, value, where)
        hit = {index for index, cell in enumerate(cells) if _matches(cell, pattern)}
        if not hit:
            raise MibenchError(f"{where}: no cell is like that", cure="correct or remove it")
        dropped |= hit
    return tuple(cell for index, cell in enumerate(cells) if index not in dropped)


def _check_pattern(cells: Sequence[Cell], field: str, value: object, location: str) -> None:
    present = {name for cell in cells for name in _names(cell, field)}
    for wanted in value if isinstance(value, list) else [value]:
        if not isinstance(wanted, str | int):
            raise MibenchError(f"{location}: {field}: expected a name or a list of names, got {shown(value)}")
        if wanted not in present:
            raise MibenchError(f"{location}: {registry.unknown(field, str(wanted), map(str, present))}")


def _matches(cell: Cell, pattern: Mapping[str, object]) -> bool:
    """Whether a cell has every value of the pattern, or one of its values where it lists several."""
    return all(
        bool(_names(cell, field) & set(value if isinstance(value, list) else [value]))
        for field, value in pattern.items()
    )


def _names(cell: Cell, field: str) -> set[object]:
    """What a cell answers to: an attack by its name and by its label."""
    values = {cell.axis(field)} | ({cell.label} if field == "attack" else set())
    return {name for name in values if name is not None}


def _mapping(given: object, location: str) -> dict[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise MibenchError(f"{location}: expected a mapping of names to values, got {shown(given)}")
    return {str(key): value for key, value in given.items()}


def _known(fields: Mapping[str, object], known: Sequence[str], location: str) -> None:
    for key in fields:
        if key not in known:
            raise MibenchError(f"{location}: unknown key {shown(key)}{suggest(key, known)} (known: {', '.join(known)})")


def _text(given: object, location: str) -> str:
    if not isinstance(given, str) or not given:
        raise MibenchError(f"{location}: expected a name, got {shown(given)}")
    return given
