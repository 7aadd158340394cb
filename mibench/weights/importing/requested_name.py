"""``--as target:ir152@celeba+bido``: what foreign weights shall be, and be called."""

from __future__ import annotations

from dataclasses import dataclass

from mibench import registry
from mibench.errors import MibenchError
from mibench.records import PLAIN_NAMES, CardName, is_plain_name
from mibench.weights.cards import CARD_KINDS
from mibench.weights.prior_class import prior_class

from .text import shown

EXAMPLE = "target:ir152@celeba or target:vgg16@celeba+bido"
OF_A_DATASET = ("target", "judge", "regressor")  # their classes are a data set's; a prior's origin is only a name


@dataclass(frozen=True, kw_only=True)
class RequestedName:
    """What foreign weights shall be: the kind of network, and the name of their card."""

    kind: str
    card_name: CardName

    @property
    def name(self) -> str:
        """The card's name."""
        return str(self.card_name)

    @property
    def architecture(self) -> str:
        """A registered one of the kind."""
        return self.card_name.architecture

    @property
    def dataset(self) -> str:
        """What the weights were trained on."""
        return self.card_name.dataset

    @property
    def target(self) -> CardName | None:
        """The target that a prior of this tag is made against: ``vgg16-bido`` -> ``vgg16@celeba+bido``."""
        if self.kind != "prior" or not prior_class(self.architecture).per_target:
            return None
        target = self.card_name.target_of_tag()
        if target is None:
            raise MibenchError(
                f"the prior {self.architecture!r} is made against one target",
                cure=f"say which, such as --as prior:{self.architecture}@{self.dataset}+vgg16",
            )
        registry.entry("target", target.architecture)
        return target


def parse(text: str) -> RequestedName:
    """Read ``KIND:ARCHITECTURE@DATASET[+TAG]``.

    Raises:
        MibenchError: not of that form, or an unknown kind, architecture or data set (with a suggestion).
    """
    kind, colon, name = text.partition(":")
    architecture, at, rest = name.partition("@")
    dataset, plus, tag = rest.partition("+")
    if colon and architecture and not at:
        raise MibenchError(f"--as {shown(text)}: say what it was trained on, such as {kind}:{architecture}@celeba")
    parts = [architecture, dataset, *(tag.split("+") if plus else [])]
    if plus and not all(map(is_plain_name, tag.split("+"))):
        raise MibenchError(f"--as {shown(text)}: a tag becomes part of file names: {PLAIN_NAMES}")
    if not colon or not all(is_plain_name(part) for part in parts):
        raise MibenchError(f"--as {shown(text)}: expected KIND:ARCHITECTURE@DATASET[+TAG], such as {EXAMPLE}")
    if kind not in CARD_KINDS:
        raise MibenchError(registry.unknown("kind of network", kind, CARD_KINDS))
    if architecture not in registry.names(kind):
        other = next((k for k in CARD_KINDS if architecture in registry.names(k)), None)
        if other is not None:
            raise MibenchError(f"{architecture!r} is a {other}, no {kind}", cure=f"--as {other}:{name}")
        registry.entry(kind, architecture)
    if kind in OF_A_DATASET:
        registry.entry("dataset", dataset)
    return RequestedName(kind=kind, card_name=CardName(architecture, dataset, tag or None).checked("--as"))
