"""What the class of a target, judge or backbone declares about itself."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mibench.records import AccessName


class Network:
    """Base class (beside ``nn.Module``) of networks with something to declare; the defaults hold for all others.

    Attributes:
        from_user: a user brings it with its weights (``mibench audit``): it is built from what its card names, at no
            width and for no other number of classes, and no recipe trains it.
        access: the most that a network of this kind can give: no card grants more.
        not_trained: why no recipe trains it under its own name, with the cure; None: one does.
    """

    from_user: ClassVar[bool] = False
    access: ClassVar[AccessName] = "gradients"
    not_trained: ClassVar[str | None] = None

    def deterministic(self) -> nn.Module | None:
        """A network of the same weights that answers an image the same way every time, in evaluation.

        Where this one draws random numbers it takes their mean. None: it draws none.
        """
        return None


def network_traits(architecture: object) -> Network | type[Network]:
    """What a registered architecture (a class, or an object that builds networks) declares; else the defaults."""
    if isinstance(architecture, Network):
        return architecture
    if isinstance(architecture, type) and issubclass(architecture, Network):
        return architecture
    return Network
