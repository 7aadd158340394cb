"""The variational bottleneck of MID (Wang et al., AAAI 2021, arXiv 2009.05241): a code with a mean and a spread."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mibench.api import Network

SHIFT = 5.0  # std = softplus(s - 5): small at the beginning of the training


def mean_and_spread(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """``s`` ``(N, 2 k)`` of the bottleneck's linear layer to mean ``(N, k)`` and standard deviation ``(N, k)``."""
    mean, spread = statistics.chunk(2, dim=1)
    return mean, nn.functional.softplus(spread - SHIFT)


class Bottlenecked(Network, nn.Module):
    """A classifier that reads a code.

    Attributes:
        sample: whether it draws the code in evaluation as well.
    """

    sample: bool

    def deterministic(self) -> nn.Module | None:
        """The same weights, not copied, with the mean code; None without ``sample``: it answers so itself."""
        if not self.sample:
            return None
        other = copy.copy(self)
        other.sample = False
        return other


def code(statistics: Tensor, *, drawn: bool) -> Tensor:
    """``mean + std * noise``, one draw for each sample, or the mean alone; ``(N, 2 k)`` to ``(N, k)``."""
    mean, spread = mean_and_spread(statistics)
    return mean + spread * torch.randn_like(mean) if drawn else mean
