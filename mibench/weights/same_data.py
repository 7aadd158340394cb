"""Do weights belong to a data set as it is now?"""

from __future__ import annotations

from mibench.api import Card
from mibench.data.fingerprint import parts_in, what_changed
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.weights.cards import training_command


def check_same_data(kind: str, card: Card, dataset: IdentitySplit) -> None:
    """Raise unless weights belong to a data set as it is now.

    A card of imported weights has no dataset digest; it is matched by the private images of its measured accuracy.

    Args:
        kind: of the weights, for the message.
        card: whose ``dataset_digest`` or ``measured.dataset_digest`` is compared; a card of another data set is fine.
        dataset: what is used now.

    Raises:
        MibenchError: they are of other data; the line says what changed.
    """
    if card.dataset != dataset.name:
        return
    now, trained = dataset.digest, card.dataset_digest
    if trained is not None and trained != now:
        cure = "" if parts_in(now) and not parts_in(trained) else "drop the --set dataset.*, restore the data, or "
        raise MibenchError(
            f"{kind} {card.name!r} was trained on another version of {dataset.name}: {what_changed(trained, now)}",
            cure=f"{cure}train it again: {training_command(kind, card.name)}",
        )
    measured = (card.measured or {}).get("dataset_digest")
    if measured is not None and _other_private_images(str(measured), now):
        raise MibenchError(
            f"{kind} {card.name!r} was measured on another version of {dataset.name} when it was imported: "
            f"{what_changed(str(measured), now)}",
            cure="import it again, so that its accuracy is that of these images",
        )


def _other_private_images(recorded: str, now: str) -> bool:
    before, after = parts_in(recorded), parts_in(now)
    return recorded != now if not before or not after else before["private"] != after["private"]
