"""What the comparison at the end of a sweep is asked for, checked before a cell runs."""

from __future__ import annotations

from contextlib import suppress

from mibench import registry
from mibench.errors import MibenchError, suggest
from mibench.metrics import METRICS
from mibench.metrics.declared import declared_infos
from mibench.records import CardName
from mibench.system.text_files import shown
from mibench.weights.cards import all_cards

from .suite import UNDEFENDED, Suite

CONTROL = "control: "  # begins the labels of defences that defend nothing


def check_compared(suite: Suite) -> None:
    """Refuse metrics that the comparison at the end could not test, and a reference that none of its rows will be.

    Raises:
        MibenchError: nobody declares such a metric with a value for each identity, or no cell has such an attack
            (``by: attack``), target or defence (``by: defence``).
    """
    _check_reference(suite)
    infos = declared_infos({*METRICS, *registry.names("metric")}) if suite.metrics else ()
    known = sorted(info.name for info in infos if info.column is not None)
    for name in suite.metrics:
        if name not in known:
            raise MibenchError(
                f"suite {suite.name!r}: compare.metrics: {name!r} cannot be tested over identities"
                f"{suggest(name, known)} (known: {', '.join(known)})"
            )


def _check_reference(suite: Suite) -> None:
    """The rows are called by what is known here, and by settings in brackets, which the runs decide."""
    if suite.reference is None:
        return
    wanted = suite.reference.removeprefix(CONTROL).partition(" (")[0].partition(" · ")[0]
    known = _attacks(suite) if suite.by == "attack" else _defences(suite)
    if wanted in known:
        return
    labels = {cell.label: str(cell.request.attack) for cell in suite.cells}
    attack = labels.get(wanted) if suite.by == "attack" else None
    raise MibenchError(
        f"suite {suite.name!r}: compare.reference: no row will be called {shown(suite.reference)}"
        f"{suggest(wanted, known)} (known: {', '.join(known)})",
        cure=None
        if attack is None
        else f"{shown(wanted)} is what the suite calls it: name the attack, {attack!r}, with its settings in brackets "
        "where that is more than one row",
    )


def _attacks(suite: Suite) -> list[str]:
    """The attacks of the cells by the names that they call themselves, and the floor of each cell."""
    names = [registry.role("baseline")]
    for address in dict.fromkeys(str(cell.request.attack) for cell in suite.cells):
        try:
            names.append(registry.entry("attack", address).name)
        except MibenchError:  # such a cell cannot start, and its row in the table says why
            continue
    return list(dict.fromkeys(name for name in names if name is not None))


def _defences(suite: Suite) -> list[str]:
    """The names of the targets' cards and the defences on them; of a target without a card its tag."""
    wanted = {CardName.complete(str(cell.request.target), "") for cell in suite.cells}
    pairs = {(name.architecture, name.tag) for name in wanted}
    found = {UNDEFENDED}
    for card_name, file in all_cards().items():
        name = CardName.complete(card_name, "")
        pair = name.architecture, name.tag
        if file.kind != "target" or pair not in {(one.architecture, one.tag) for one in wanted}:
            continue
        pairs.discard(pair)
        found.add(card_name)
        with suppress(MibenchError):  # a card that cannot be read: its cells cannot start, and say why
            if (defence := file.card().defence) is not None:
                found.add(defence.name)
    return sorted(found | {tag for _, tag in pairs if tag is not None})
