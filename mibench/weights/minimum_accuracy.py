"""Better than guessing: what a classifier must reach before attacking it, or judging by it, means anything."""

from __future__ import annotations

from mibench.api import Card
from mibench.errors import MibenchError


def least_accuracy(classes: int) -> float:
    """Twice as good as chance, for two classes half way between chance and perfect."""
    chance = 1 / classes
    return min(2 * chance, (1 + chance) / 2)


def percent(share: float) -> str:
    """``31.4%``; chance among thousands of people keeps its first digits, ``0.02%``."""
    return f"{100 * share:.2g}%" if 0 < share < 0.001 else f"{share:.1%}"


def weakness(card: Card, least: float | None = None) -> str | None:
    """Why a target or judge is too weak to be of use; None when it is not, or nobody measured it.

    Args:
        card: of the classifier.
        least: the accuracy in [0, 1] to ask for; None means :func:`least_accuracy`.
    """
    accuracy = (card.measured or {}).get("test_accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not card.classes:
        return None
    asked = least_accuracy(card.classes) if least is None else least
    if accuracy >= asked:
        return None
    return (
        f"{card.kind} {card.name!r} gets {accuracy:.2%} of its test images right (chance {1 / card.classes:.2%}), "
        f"{asked:.2%} is the least to go on with"
    )


def refuse_weak(card: Card, least: float | None) -> None:
    """Refuse a target or judge that does little better than chance: its numbers would say nothing about leaks.

    Raises:
        MibenchError: the accuracy on its card is below ``least`` (None: twice chance).
    """
    if (reason := weakness(card, least)) is not None:
        raise MibenchError(f"{reason}", cure="train it longer, choose another, or say --min-accuracy 0")
