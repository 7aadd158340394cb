"""No defence: the undefended twin, trained by the same command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mibench.api import Defence


@dataclass(frozen=True, kw_only=True)
class NoDefence(Defence):
    """Changes nothing: the reference that every defence is compared with."""

    name: ClassVar[str] = "none"
