"""MID (Wang et al., "Improving Robustness to Model Inversion Attacks via Mutual Information Regularization").

AAAI 2021, arXiv 2009.05241. A variational bottleneck before the classifier limits what an answer says about an image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, ClassifierOutput, Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.targets.networks.bottleneck import SHIFT, mean_and_spread

STATISTICS = "st_layer"  # the linear layer that gives mean and spread of the code
LOG_FLOOR = 1e-7  # inside the logarithm, in one of the releases
LINEAR_BELOW = -15.0  # log(softplus(u)) is u to 2e-7 there; far below, softplus is 0 in float32


def divergence(statistics: Tensor, log_floor: float = 0.0) -> Tensor:
    """KL of each sample's code from a standard normal: sum over k of ``-(1 + 2 log std - mean^2 - std^2) / 2``.

    Args:
        statistics: ``(N, 2 k)``, of the bottleneck's linear layer.
        log_floor: added to std inside the logarithm.

    Returns:
        ``(N,)``, 0 or more. A sum, not a mean: it grows with the width of the code.
    """
    mean, std = mean_and_spread(statistics)
    if log_floor:
        logarithm = (std + log_floor).log()
    else:
        shifted = statistics.chunk(2, dim=1)[1] - SHIFT
        inside = nn.functional.softplus(shifted.clamp_min(LINEAR_BELOW)).log()
        logarithm = torch.where(shifted < LINEAR_BELOW, shifted, inside)
    return -0.5 * (1 + 2 * logarithm - mean.square() - std.square()).sum(dim=1)


class BottleneckHooks(TrainingHooks):
    """The divergence of the codes of a batch, as a penalty."""

    hidden_layers = (STATISTICS,)

    def __init__(self, beta: float, log_floor: float) -> None:
        super().__init__()
        self.beta, self.log_floor = beta, log_floor

    def penalties(self, output: ClassifierOutput, hidden: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        """``beta`` times the mean divergence over the training images of the batch, in float32."""
        statistics = hidden[STATISTICS][: batch.plain].float()
        return {"bottleneck": self.beta * divergence(statistics, self.log_floor).mean()}


@dataclass(frozen=True, kw_only=True)
class MID(Defence):
    """A variational information bottleneck (Wang et al., AAAI 2021): cross entropy + ``beta`` KL(code, N(0, 1)).

    The classifier reads a code of half as many coordinates as the feature, drawn anew for every image and step.

    Attributes:
        beta: weight of the divergence; 0 is no defence: then the undefended network is trained.
        sample: draw the code in evaluation too, as every release does. By default the answer is that of the mean code,
            which somebody with the weights has anyway, and is the same twice. The card has the accuracy of both.
        batch_norm: VGG16 only: keep its BatchNorm1d before the bottleneck (MIA toolbox); the releases drop it.
        log_floor: 0, or 1e-7 inside the logarithm, as one release has it.
    """

    name: ClassVar[str] = "mid"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:mean", "ppa:eot", "ppa:transfer")
    compatible: ClassVar[tuple[str, ...] | None] = ("vgg16", "ir152", "facenet64")

    beta: float = 0.003
    sample: bool = False
    batch_norm: bool = False
    log_floor: float = 0.0

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.beta < math.inf:
            raise MibenchError(f"defence.beta must be finite and not negative, got {self.beta}")
        if not 0 <= self.log_floor < 1:
            raise MibenchError(
                f"defence.log_floor must lie in [0, 1), got {self.log_floor}",
                cure=f"{LOG_FLOOR} is released",
            )

    def architecture(self, name: str, arguments: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The network with a bottleneck in the place of ``name``.

        Raises:
            MibenchError: ``batch_norm`` for another network than VGG16.
        """
        if not self.beta:
            return name, dict(arguments)
        changed = {**arguments, "sample": self.sample}
        if self.batch_norm:
            if name != "vgg16":
                raise MibenchError(
                    "defence.batch_norm is for vgg16, whose BatchNorm1d it keeps",
                    cure=f"{name} has none to keep",
                )
            changed["batch_norm"] = True
        return f"{name}_mid", changed

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """The divergence as a penalty."""
        return BottleneckHooks(self.beta, self.log_floor) if self.beta else TrainingHooks()

    def other_answers(self, network: nn.Module) -> Mapping[str, nn.Module]:
        """``sampled`` codes where the network answers with their mean, ``mean`` codes where it draws them."""
        if not self.beta:
            return {}
        other = copy.deepcopy(network)
        other.sample = not self.sample  # type: ignore[assignment]
        return {"mean" if self.sample else "sampled": other}
