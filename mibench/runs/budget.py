"""A protocol's query budget: what an attack plans to show its victim, and the setting that makes it fit.

Attacks differ in what a step costs, so equal steps are not equal footing; equal queries are. The budget counts images
shown forwards plus images that a gradient came back for, per attacked identity, the shared preparation included. Images
shown to a surrogate count as well: an attack takes as many steps by another network's gradients as by the victim's. It
decides one setting of an attack, its ``budget_setting``: the largest whole number whose planned total fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mibench.api import Attack, Queries
from mibench.errors import MibenchError
from mibench.runs.spec import EvalProtocol
from mibench.settings import Setting


def planned_total(attack: Attack, protocol: EvalProtocol) -> Queries | None:
    """Images that the whole run will show victim and surrogate, preparation and all units; None: it cannot say."""
    total = attack.planned_preparation()
    if total is None:
        return None
    sizes = [len(unit) for unit in protocol.units(attack.unit_size)]
    for size in set(sizes):
        for unit in (attack.planned_queries(size), attack.planned_surrogate_queries(size)):
            if unit is None:
                return None
            count = sizes.count(size)
            total = Queries(total.forward + count * unit.forward, total.backward + count * unit.backward)
    return total


def within_budget(
    attack: Attack, origins: Mapping[str, Setting], protocol: EvalProtocol
) -> tuple[Attack, dict[str, Setting]]:
    """The attack as the protocol's budget lets it run, and the origins of its settings.

    Without a budget nothing changes. With one, the attack's ``budget_setting`` becomes the largest whole number that
    fits, whatever a preset says; a value that a person asked for is kept.

    Args:
        attack: as presets and settings made it.
        origins: where each of its settings comes from.
        protocol: the protocol of the run.

    Raises:
        MibenchError: the attack cannot say what it will ask, or asks for more than the budget whatever the setting.
    """
    if protocol.query_budget is None:
        return attack, dict(origins)
    allowed, name = protocol.query_budget * protocol.num_identities, attack.budget_setting
    needed = _images(attack, protocol)
    if name is None or origins[name].by_user:
        if needed > allowed:
            raise _too_much(attack, protocol, needed)
        return attack, dict(origins)
    fitting = _largest(attack, name, protocol, allowed)
    origin = f"budget of protocol {protocol.title}"
    return fitting, {**origins, name: Setting(getattr(fitting, name), origin)}


def _images(attack: Attack, protocol: EvalProtocol) -> int:
    """Planned images, forwards plus backwards."""
    planned = planned_total(attack, protocol)
    if planned is None:
        raise MibenchError(
            f"protocol {protocol.title!r} has a query budget, and attack {attack.name!r} with these settings "
            "cannot say beforehand what it asks",
            cure="choose another attack, or --set protocol.query_budget=null",
        )
    return planned.forward + planned.backward


def _largest(attack: Attack, name: str, protocol: EvalProtocol, allowed: int) -> Attack:
    """The attack with the largest ``name`` that fits.

    The present value is valid, and so is everything between two valid values: what the attack refuses below it is too
    small, what it refuses above it is too large.
    """
    present: int = getattr(attack, name)
    fits: dict[int, Attack] = {}

    def fits_budget(value: int) -> bool | None:
        """Whether a value fits; None when the attack refuses it."""
        try:
            changed = dataclasses.replace(attack, **{name: value})
        except (MibenchError, ValueError):
            return None
        if _images(changed, protocol) > allowed:
            return False
        fits[value] = changed
        return True

    low, high = 0, present
    while fits_budget(high):
        if high > allowed:
            raise MibenchError(
                f"attack {attack.name!r} says that {name} decides its queries, but {name}={high} plans no more than "
                f"the {protocol.query_budget} images per identity of protocol {protocol.title!r}; its planned_queries "
                f"must grow with {name}"
            )
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        verdict = fits_budget(middle)
        if verdict is False or (verdict is None and middle > present):
            high = middle
        else:
            low = middle
    if not fits:
        least = dataclasses.replace(attack, **{name: high})
        raise _too_much(least, protocol, _images(least, protocol), f" even with {name}={high}")
    return fits[max(fits)]


def _too_much(attack: Attack, protocol: EvalProtocol, needed: int, when: str = "") -> MibenchError:
    """What the attack needs, what it may have, and which settings would lower it."""
    per_identity, setting = -(-needed // protocol.num_identities), attack.budget_setting
    value = f" with {setting}={getattr(attack, setting)}" if setting is not None and not when else when
    cheaper = [f"attack.{name}" for name in _costly(attack, protocol, needed) if name != setting]
    cures = [f"leave attack.{setting} to the budget"] if setting is not None and not when else []
    cures += [f"lower {' or '.join(cheaper)}"] if cheaper else []
    cure = "".join(f"{one}, or " for one in cures)
    return MibenchError(
        f"attack {attack.name!r}{value} shows its victim {per_identity} images per identity (forwards plus backwards, "
        f"preparation included), protocol {protocol.title!r} allows {protocol.query_budget}",
        cure=f"{cure}--set protocol.query_budget={per_identity}",
    )


def _costly(attack: Attack, protocol: EvalProtocol, needed: int) -> list[str]:
    """Whole-number settings that cost less when they are lower, those that save the most first."""
    saved: dict[str, int] = {}
    for field in dataclasses.fields(attack):
        value = getattr(attack, field.name)
        if type(value) is not int or value < 2 or field.name == "unit_size":
            continue
        try:
            lower = planned_total(dataclasses.replace(attack, **{field.name: value // 2}), protocol)
        except (MibenchError, ValueError):
            continue
        if lower is not None and lower.forward + lower.backward < needed:
            saved[field.name] = needed - lower.forward - lower.backward
    return sorted(saved, key=lambda name: -saved[name])
