"""The class of a registered prior."""

from __future__ import annotations

from mibench import registry
from mibench.api import MibenchError, Prior


def prior_class(architecture: str) -> type[Prior]:
    """The class that builds priors of an architecture; its facts (``options``, ``per_target``) need no weights.

    Raises:
        MibenchError: no such prior, or a registered object that does not extend :class:`mibench.api.Prior`.
    """
    kind = registry.load("prior", architecture)
    if not (isinstance(kind, type) and issubclass(kind, Prior)):
        address = registry.entry("prior", architecture).address
        raise MibenchError(
            f"prior {architecture!r} ({address}) does not extend mibench.api.Prior", cure="let its class do so"
        )
    return kind
