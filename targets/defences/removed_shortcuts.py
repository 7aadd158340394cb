"""RoLSS: classifiers whose last stage has no shortcuts.

Koh et al., "On the Vulnerability of Skip Connections to Model Inversion Attacks" (ECCV 2024). A residual unit becomes
``F(x) + s * shortcut(x)`` with a factor s for each of the four stages: (1, 1, 1, 0) is RoLSS, a last factor between 0
and 1 is SSF, and TTS trains with the shortcuts first and without them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from mibench.api import Batch, Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.targets.networks.shortcuts import Weakened

STAGES = 4
VARIANTS = ("paper", "released")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")


class TwoPhaseHooks(TrainingHooks):
    """TTS: shortcuts count whole in the first epochs, and as the defence says after them."""

    def __init__(self, network: nn.Module, first_epochs: float) -> None:
        super().__init__()
        self.first_epochs = first_epochs
        self.units = [module for module in network.modules() if isinstance(module, Weakened) and module.weakened]

    def batch(self, batch: Batch) -> Batch:
        """The batch as it is, and the network as its epoch has it."""
        for unit in self.units:
            unit.weakened = batch.epoch >= self.first_epochs
        return batch

    def in_force(self, epoch: int) -> bool:
        """In the second phase; weights of the first one need the shortcuts that the stored network has not."""
        return epoch >= self.first_epochs


@dataclass(frozen=True, kw_only=True)
class RemovedShortcuts(Defence):
    """Remove or weaken shortcuts: RoLSS, SSF and TTS (Koh et al., ECCV 2024).

    Attributes:
        skip: how much the shortcuts of each of the four stages count. All 1: no defence.
        removed_after: share of the epochs that are trained with whole shortcuts first (TTS); 0: none (RoLSS, SSF).
        variant: ``paper``, or ``released``, where the last fifth of the third stage's units has no shortcut in any
            model, the undefended ones included. ResNets and ResNeXts only.
    """

    name: ClassVar[str] = "rolss"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    compatible: ClassVar[tuple[str, ...]] = ("ir152", "facenet64", *RESNETS, *DENSENETS)

    skip: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0)
    removed_after: float = 0.0
    variant: str = "paper"

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if len(self.skip) != STAGES or not all(0 <= factor <= 1 for factor in self.skip):
            raise MibenchError(f"defence.skip must be four factors in [0, 1], one for each stage, got {self.skip}")
        if not 0 <= self.removed_after < 1:
            raise MibenchError(
                f"defence.removed_after must be a share of the epochs in [0, 1), got {self.removed_after}"
            )
        if self.variant not in VARIANTS:
            raise MibenchError(
                f"unknown defence.variant {self.variant!r}",
                cure=f"choose one of {', '.join(VARIANTS)}",
            )

    def architecture(self, name: str, arguments: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The same architecture with the argument ``skip``.

        Raises:
            MibenchError: the released variant of a network that the released code does not have.
        """
        changed = dict(arguments)
        if self.variant == "released":
            if name not in RESNETS:
                raise MibenchError(
                    f"the released code has no variant of {name}",
                    cure=f"set defence.variant=paper or choose one of {', '.join(RESNETS)}",
                )
            changed["released_split"] = True
        if self.variant == "released" or any(factor != 1 for factor in self.skip):
            changed["skip"] = [float(factor) for factor in self.skip]
        return name, changed

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """None of RoLSS and SSF, the two phases of TTS.

        Raises:
            MibenchError: no epoch is left for the second phase, so that what was trained keeps its shortcuts.
        """
        if self.removed_after * task.epochs > task.epochs - 1:
            raise MibenchError(
                f"defence.removed_after={self.removed_after:g} leaves none of {task.epochs} epochs without shortcuts",
                cure=f"set it to {1 - 1 / task.epochs:.3g} or less",
            )
        return TwoPhaseHooks(network, self.removed_after * task.epochs) if self.removed_after else TrainingHooks()
