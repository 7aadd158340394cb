"""The network whose gradients an attack follows instead of its victim's."""

from __future__ import annotations

from mibench.api import Access, Attack, Card
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.runs import compatibility
from mibench.weights import cards
from mibench.weights.cards import CardFile
from mibench.weights.load import max_access

TWIN = "twin"


def find_surrogate(attack: Attack, target: Card, dataset: IdentitySplit) -> CardFile | None:
    """The card of the surrogate that an attack needs; None where it follows its victim's own gradients.

    Raises:
        MibenchError: a twin is asked for and the target is undefended; no such card; a network that is the target's
            own, takes other images, tells other classes apart or gives no gradients.
    """
    wanted = attack.needs_surrogate
    if wanted is None:
        return None
    if wanted == TWIN:
        if target.defence is None or target.defence.twin is None:
            raise MibenchError(
                f"attack {attack.name!r} takes its gradients from the target's undefended twin, and {target.name!r} "
                f"{'is undefended' if target.defence is None else 'names none'}",
                cure="attack it with its own gradients, or name another target as the surrogate",
            )
        file = cards.find("target", target.defence.twin, dataset.name)
        recorded, found = target.defence.twin_sha256, file.card().weights.sha256
        if recorded not in (None, found):
            raise MibenchError(
                f"the twin {file.name!r} of {target.name!r} has other weights now (sha256 {found[:12]}, its card "
                f"names {str(recorded)[:12]})",
                cure="restore it, or train the defended target again",
            )
    else:
        file = cards.find("target", wanted, dataset.name)
    card = file.card()
    compatibility.check_data("target", card, dataset)
    if card.weights.sha256 == target.weights.sha256 and target.defence is None:
        raise MibenchError(
            f"the surrogate {card.name!r} is the target itself",
            cure="attack it with its own gradients, without a surrogate",
        )
    if card.image.size != target.image.size:
        raise MibenchError(
            f"the surrogate {card.name!r} takes images of {card.image.size} pixels, {target.name!r} of "
            f"{target.image.size}",
            cure="name a surrogate that takes images of that size",
        )
    if max_access(card) < Access.GRADIENTS:
        raise MibenchError(
            f"the surrogate {card.name!r} gives no gradients",
            cure="name another target",
        )
    return file
