"""Label smoothing, negative (a defence) and positive (which leaks more).

Struppek, Hintersdorf and Kersting, "Be Careful What You Smooth For" (ICLR 2024): with a smoothing factor a, the label
of a sample is ``(1 - a) onehot + a / C``. A positive a makes inversion attacks stronger, a negative one weaker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mibench.api import Defence, MibenchError, TrainingHooks, TrainingTask

SMOOTH_TERMS = ("all", "others")
SCHEDULES = ("ramp", "constant", "off-by-one")
RAMP_BEGINS, RAMP_ENDS = 0.5, 0.75  # of the training; released: epochs 50 and 75 of 100


def smoothed_losses(logits: Tensor, labels: Tensor, factor: float, term: str = "all") -> Tensor:
    """``(1 - a)(-log p_y) + a mean_c(-log p_c)`` for every sample, which torch's cross entropy refuses for a < 0.

    Args:
        logits: ``(B, C)``; the logarithms are taken in float32 whatever they are in.
        labels: int64 ``(B,)``.
        factor: a.
        term: ``all``: the mean is over all C classes; ``others``: over the C - 1 others, as the code of the BiDO study
            has it.

    Returns:
        float32 ``(B,)``. For a < 0 there is no lower bound: the logits grow as long as it is trained.
    """
    negative = -logits.float().log_softmax(dim=1)
    own = negative.gather(1, labels[:, None]).squeeze(1)
    total, classes = negative.sum(dim=1), logits.shape[1]
    smooth = total / classes if term == "all" else (total - own) / (classes - 1)
    return (1 - factor) * own + factor * smooth


def scheduled(factor: float, epoch: int, epochs: int, schedule: str) -> float:
    """The smoothing factor of an epoch (from 0) of ``epochs``.

    Args:
        factor: the whole one, a.
        schedule: ``constant``; ``ramp``: 0 in the first half, then ``a (t + 1 - E/2) / (E/2)`` until three quarters,
            then a (released: at the end of the ramp it has reached a/2, and jumps); ``off-by-one``: the same, begun an
            epoch early, as a later release counts epochs from 1.
    """
    if schedule == "constant":
        return factor
    count = epoch + 1 if schedule == "off-by-one" else epoch
    begins = RAMP_BEGINS * epochs
    if count < begins:
        return 0.0
    if count < RAMP_ENDS * epochs:
        return factor * (count + 1 - begins) / (epochs - begins)
    return factor


class SmoothingHooks(TrainingHooks):
    """The smoothed loss, by its schedule."""

    def __init__(self, factor: float, *, epochs: int, schedule: str, term: str, clip: float | None) -> None:
        super().__init__()
        self.factor, self.epochs, self.schedule, self.term, self.clip = factor, epochs, schedule, term, clip

    def classification_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor | None:
        """None while the factor is 0: then the training is the undefended one, to the bit."""
        factor = scheduled(self.factor, epoch, self.epochs, self.schedule)
        return smoothed_losses(logits, labels, factor, self.term) if factor else None

    def in_force(self, epoch: int) -> bool:
        """Where the factor is whole: before the ramp the network is undefended."""
        return scheduled(self.factor, epoch, self.epochs, self.schedule) == self.factor

    def before_update(self, network: nn.Module, batch: object) -> None:
        """After the backward pass: clipping what is about to be zeroed, as one release does, clips nothing."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], self.clip)


@dataclass(frozen=True, kw_only=True)
class NegativeLabelSmoothing(Defence):
    """Negative label smoothing (Struppek et al., ICLR 2024): the loss pushes the other classes' scores down.

    Attributes:
        alpha: the smoothing factor, below 0; 0 is no defence.
        schedule: ``ramp`` (released), ``constant``, ``off-by-one``.
        smooth_term: ``all`` classes or ``others``.
        clip_gradient: largest norm of the gradient, taken after the backward pass; None: no clipping, as released.
    """

    name: ClassVar[str] = "negls"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:margin", "ppa:scaled", "ppa:transfer")
    replaces_loss: ClassVar[bool] = True

    alpha: float = -0.05
    schedule: str = "ramp"
    smooth_term: str = "all"
    clip_gradient: float | None = None

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        _check(self.alpha, self.schedule, self.smooth_term)
        if self.alpha > 0:
            raise MibenchError(
                f"defence.alpha must be 0 or less, got {self.alpha}; positive smoothing makes attacks stronger: it is "
                "the control ls"
            )
        if self.clip_gradient is not None and not self.clip_gradient > 0:
            raise MibenchError(f"defence.clip_gradient must be a positive number or null, got {self.clip_gradient}")

    def why_diverged(self) -> tuple[str, str] | None:
        """The loss has no lower bound below 0: logits grow as long as it is trained."""
        if not self.alpha:
            return None
        cure = f"set defence.alpha nearer 0 (now {self.alpha:g})"
        if self.clip_gradient is None:
            cure = f"set defence.clip_gradient=1, or {cure.removeprefix('set ')}"
        return "the loss has no lower bound for a negative alpha", cure

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """The loss of the schedule."""
        return SmoothingHooks(
            self.alpha, epochs=task.epochs, schedule=self.schedule, term=self.smooth_term, clip=self.clip_gradient
        )


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Defence):
    """Positive label smoothing, a control: it leaks more than the undefended twin (Struppek et al., ICLR 2024).

    Attributes:
        alpha: the smoothing factor in [0, 1], the same in all epochs.
        smooth_term: ``all`` classes or ``others``.
    """

    name: ClassVar[str] = "ls"
    replaces_loss: ClassVar[bool] = True
    control: ClassVar[bool] = True

    alpha: float = 0.1
    smooth_term: str = "all"

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        _check(self.alpha, "constant", self.smooth_term)
        if self.alpha < 0:
            raise MibenchError(f"defence.alpha must lie in [0, 1], got {self.alpha}; below 0 it is the defence negls")

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """The smoothed loss in every epoch."""
        return SmoothingHooks(self.alpha, epochs=task.epochs, schedule="constant", term=self.smooth_term, clip=None)


def _check(alpha: float, schedule: str, term: str) -> None:
    if not math.isfinite(alpha) or alpha > 1:
        raise MibenchError(f"defence.alpha must be a finite number of 1 or less, got {alpha}")
    for name, value, known in (("schedule", schedule, SCHEDULES), ("smooth_term", term, SMOOTH_TERMS)):
        if value not in known:
            raise MibenchError(
                f"unknown defence.{name} {value!r}",
                cure=f"choose one of {', '.join(known)}",
            )
