"""What attacks refuse before they start: settings out of range, and priors that lack what they work on."""

from __future__ import annotations

import math
from typing import Protocol

from mibench.api import MappingPrior, MibenchError, Prior


class NamedSettings(Protocol):
    """A configuration with a name for messages: an attack."""

    @property
    def name(self) -> str: ...


def check_ranges(
    attack: NamedSettings,
    *,
    at_least_one: tuple[str, ...] = (),
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
) -> None:
    """Refuse numbers that make no sense, by the names of an attack's fields.

    Args:
        attack: the configuration.
        at_least_one: whole numbers of at least 1.
        positive: finite numbers above 0.
        not_negative: finite numbers of at least 0.

    Raises:
        MibenchError: with the setting, what it may be, and what it was.
    """
    values = vars(attack)
    for name in at_least_one:
        if values[name] < 1:
            raise MibenchError(f"{attack.name}: {name} must be at least 1, got {values[name]}")
    for name in positive:
        if not 0 < values[name] < math.inf:
            raise MibenchError(f"{attack.name}: {name} must be positive and finite, got {values[name]}")
    for name in not_negative:
        if not 0 <= values[name] < math.inf:
            raise MibenchError(f"{attack.name}: {name} must be finite and not negative, got {values[name]}")


def require_prior(prior: Prior | None) -> Prior:
    """The prior of a run that must have one.

    Raises:
        MibenchError: the run has none.
    """
    if prior is None:
        raise MibenchError("this attack needs a prior and the run has none", cure="name one with --prior")
    return prior


def require_mapping(prior: Prior | None) -> MappingPrior:
    """The prior of a run that must have one with a mapping network.

    Raises:
        MibenchError: the run has no prior, or one without a mapping network.
    """
    prior = require_prior(prior)
    if not isinstance(prior, MappingPrior):
        raise MibenchError(
            f"this attack needs a prior with a mapping network, {prior.name!r} has none",
            cure="run with --prior stylegan2",
        )
    return prior


def require_styles(prior: MappingPrior, attack: str, *, instead: str) -> MappingPrior:
    """The prior of an attack that gives each layer a style of its own; ``instead`` is the value of ``optimise`` that
    does without.

    Raises:
        MibenchError: the prior takes one style for all layers.
    """
    if prior.num_styles < 2:
        raise MibenchError(
            f"{attack}: prior {prior.name!r} takes one style for all layers",
            cure=f"set attack.optimise={instead}, or name another prior with --prior",
        )
    return prior


def require_discriminator(prior: Prior, attack: str, setting: str) -> None:
    """Refuse a prior without a discriminator; ``setting`` is the weight of the attack's realism term.

    Raises:
        MibenchError: the prior has none.
    """
    if not prior.has_discriminator:
        raise MibenchError(
            f"{attack}: prior {prior.name!r} comes without a discriminator",
            cure=f"name another one with --prior, or leave realism out with --set attack.{setting}=0",
        )
