"""Settings as Python says them."""

from __future__ import annotations

from collections.abc import Mapping

from mibench.errors import MibenchError

Settings = Mapping[str, object]


def scoped(settings: Settings) -> dict[str, dict[str, object]]:
    """``{"attack.steps": 3}`` and ``{"attack": {"steps": 3}}`` alike -> ``{"attack": {"steps": 3}}``."""
    by_scope: dict[str, dict[str, object]] = {}
    for name, value in settings.items():
        scope, dot, setting = name.partition(".")
        if dot:
            by_scope.setdefault(scope, {})[setting] = value
        elif isinstance(value, Mapping):
            by_scope.setdefault(scope, {}).update(value)
        else:
            raise MibenchError(f"settings[{name!r}]: expected 'scope.name' or a mapping, got {value!r}")
    return by_scope
