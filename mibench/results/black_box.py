"""Which runs use no gradients of their victim, and which attack does the same with them: as the attacks declare it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mibench import registry

if TYPE_CHECKING:
    from .stored_run import StoredRun


def gradients_of_another(run: StoredRun) -> bool:
    """Whether an attack took its gradients from a surrogate and transferred what it made of them."""
    return isinstance(run.specification.get("surrogate"), dict)


def white_box(run: StoredRun) -> str | None:
    """The attack that does with the victim's gradients what this run did without any; None where none is declared."""
    return None if gradients_of_another(run) else registry.counterpart(run.attack)
