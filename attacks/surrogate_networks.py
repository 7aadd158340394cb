"""Surrogates: classifiers that an adversary trains on a victim's answers, from random weights.

Legend: N images, C classes, M networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torchvision
from torch import Tensor, nn

from mibench.api import Access, ClassifierOutput, Context, ImageSpec, MibenchError, State, Victim, suggest

_PREFIX = "surrogate."  # of their tensors in an attack's state


class SmallNetwork(nn.Module):
    """Ours: eight convolutions in four stages, 53 million multiplications for an image of 64 pixels at width 32.

    Args:
        num_classes: ``C``.
        width: channels of the first stage; each later one has twice as many.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in range(4):
            out = width * 2**stage
            layers += [*_convolution(channels, out, stride=2), *_convolution(out, out, stride=1)]
            channels = out
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)``."""
        logits: Tensor = self.head(self.body(images))
        return logits


def _convolution(channels: int, out: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU()]


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "small": SmallNetwork,
    "densenet121": lambda classes, width: torchvision.models.densenet121(num_classes=classes),
    "densenet161": lambda classes, width: torchvision.models.densenet161(num_classes=classes),
    "densenet169": lambda classes, width: torchvision.models.densenet169(num_classes=classes),
}


def check_names(attack: str, names: Sequence[str]) -> None:
    """Refuse names of networks that there are none of.

    Raises:
        MibenchError: with what there is.
    """
    if not names:
        raise MibenchError(f"{attack}: surrogates must name at least one network", cure=f"choose {', '.join(NETWORKS)}")
    for name in names:
        if name not in NETWORKS:
            raise MibenchError(f"{attack}: unknown surrogate {name!r}{suggest(name, NETWORKS)}")


class Surrogates(nn.Module):
    """Networks that answer together, with the mean of their logits.

    Args:
        names: keys of :data:`NETWORKS`, one for each of the ``M`` networks.
        num_classes: ``C``.
        width: of those that have one.
    """

    def __init__(self, names: Sequence[str], num_classes: int, width: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(NETWORKS[name](num_classes, width) for name in names)

    def each(self, images: Tensor) -> Tensor:
        """Logits of each network ``(M, N, C)`` for images ``(N, 3, H, W)`` in [0, 1]."""
        return torch.stack([member((images - 0.5) / 0.25) for member in self.members])

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Mean logits ``(N, C)``, in place of features as well."""
        logits = self.each(images).mean(dim=0)
        return ClassifierOutput(logits, logits)


def packed(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors as part of an attack's state, on the CPU."""
    return {_PREFIX + name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}


Built = TypeVar("Built", bound=nn.Module)


def loaded(network: Built, state: State, context: Context) -> Built:
    """The network with its tensors from an attack's state, frozen, in eval mode, on the context's device.

    Args:
        network: built as the one that was packed; its weights are replaced.
        state: with what :func:`packed` gave.
        context: the device.
    """
    own = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    network.load_state_dict(own, strict=True)
    return network.to(context.device).eval().requires_grad_(False)


def restored(network: nn.Module, state: State, context: Context, name: str) -> Victim:
    """The network as :func:`loaded` gives it, as something with gradients.

    What it is shown is no query to the context's victim.

    Args:
        network, state: as of :func:`loaded`.
        context: the device; its victim says what images and how many classes there are.
        name: for records.
    """
    victim = context.victim
    image = ImageSpec(victim.image.size, victim.image.channels)  # surrogates normalise by themselves
    network = loaded(network, state, context)
    return Victim(network, image=image, num_classes=victim.num_classes, access=Access.GRADIENTS, name=name)
