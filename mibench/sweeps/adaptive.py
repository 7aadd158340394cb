"""Cells of a suite with ``adaptive: true``: each defence under the attacks that it declares as adapted to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mibench import registry
from mibench import settings as config
from mibench.api import Attack, Card, CardName, Defence
from mibench.runs.request import RunNames
from mibench.weights import cards

from .cell import Cell


def adaptive_cells(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The adaptive cells to add to a suite's own.

    A defended target gets those that its defences declare, and its undefended twin, where the suite attacks that too,
    gets them all, so that both are compared under the same attack: all but those that follow the twin's gradients,
    which on the twin itself are the attack that its suite has already. A cell takes the preset, prior and settings of
    the suite's entry of the same attack, where there is one.
    """
    targets = list(dict.fromkeys(str(cell.request.target) for cell in cells))
    dataset = next((cell.request.dataset for cell in cells if cell.request.dataset is not None), RunNames.dataset)
    declared = {target: _declared(target, dataset) for target in targets}
    wanted: dict[str, dict[str, None]] = {target: {} for target in targets}
    by_name = {str(CardName.complete(target, dataset)): target for target in targets}
    for target, (attacks, twin) in declared.items():
        wanted[target] |= dict.fromkeys(attacks)
        if twin in by_name and by_name[twin] != target:
            wanted[by_name[twin]] |= dict.fromkeys(name for name in attacks if not _follows_another(name))
    made = []
    for name in dict.fromkeys(name for attacks in wanted.values() for name in attacks):
        for target in targets:
            if name in wanted[target]:
                made += _cells(name, [cell for cell in cells if cell.request.target == target])
    return tuple(made)


def declared_attacks(defences: Sequence[str]) -> tuple[str, ...]:
    """What registered defences declare as adapted to them, each once; one that is not registered declares none."""
    kinds: list[type[Defence]] = [
        registry.load("defence", name) for name in defences if name in registry.names("defence")
    ]
    return tuple(dict.fromkeys(attack for kind in kinds for attack in kind.adaptive))


def resolved_attack(name: str) -> Attack:
    """The attack that ``NAME`` or ``NAME:VARIANT`` stands for, with its defaults otherwise.

    Raises:
        MibenchError: an unknown attack or variant.
    """
    entry, variant = registry.attack_entry(name)
    kind: type[Attack] = entry.load()
    layers = []
    if variant is not None:
        layers.append(config.variant_layer(entry.name, variant, config.attack_presets(entry.name)))
    return config.resolve(kind, layers, scope="attack")[0]


def _follows_another(name: str) -> bool:
    return resolved_attack(name).needs_surrogate is not None


def _declared(target: str, dataset: str) -> tuple[tuple[str, ...], str | None]:
    """The attacks that a target's defences declare, and the name of its twin; by its name where it has no card yet."""
    name = CardName.complete(target, dataset)
    file = cards.all_cards().get(str(name))
    card: Card | None = None if file is None else file.card()
    if card is not None and card.defence is not None:
        return declared_attacks(card.defence.name.split("+")), card.defence.twin
    if card is not None or name.tag is None:
        return (), None
    return declared_attacks(name.tag.split("+")), str(dataclasses.replace(name, tag=None))


def _cells(name: str, cells: Sequence[Cell]) -> list[Cell]:
    """The attack ``name`` with every seed of a target's cells; none where the suite has it already."""
    if any(name in (cell.label, cell.request.attack) for cell in cells):
        return []
    base = name.partition(":")[0]
    alike = [cell for cell in cells if cell.request.attack == base]
    if len({cell.label for cell in alike}) == 1:
        requests = [cell.request for cell in alike]
    else:
        by_seed = {cell.request.seed: cell.request for cell in cells}
        requests = [
            dataclasses.replace(each, preset=None, prior=None, settings=_shared(cells)) for each in by_seed.values()
        ]
    return [Cell(label=name, request=dataclasses.replace(request, attack=name)) for request in requests]


def _shared(cells: Sequence[Cell]) -> Mapping[str, Mapping[str, object]]:
    """Settings that all cells have: those of the suite, not of an attack."""
    first, *others = [cell.request.settings for cell in cells]
    shared = {
        scope: {
            name: value for name, value in values.items() if all(o.get(scope, {}).get(name) == value for o in others)
        }
        for scope, values in first.items()
    }
    return {scope: values for scope, values in shared.items() if values and scope != "attack"}
