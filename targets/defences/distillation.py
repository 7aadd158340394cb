"""Knowledge distillation as a defence: a student that has seen public images only, and what its teacher answers them.

After the MIA toolbox (``train/classifier/distill.py``): the undefended twin is the teacher, the student's loss is
``KL(p_teacher || p_student)`` on public images, at temperature 1. The toolbox leaves its teacher in training mode, with
gradients; here it only answers. Little protection is to be expected: attacks distil surrogates by the same step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, Defence, MibenchError, TrainingHooks, TrainingTask


def distillation_losses(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(p_teacher || p_student)`` of every sample, ``(B,)``; their mean is torch's ``batchmean``.

    Args:
        student, teacher: logits ``(B, C)``.
        temperature: divides both.
    """
    wanted = (teacher / temperature).log_softmax(dim=1)
    losses: Tensor = (wanted.exp() * (wanted - (student / temperature).log_softmax(dim=1))).sum(dim=1)
    return losses


class DistillationHooks(TrainingHooks):
    """Puts public images in the place of the private ones, and the teacher's answers in that of their labels."""

    def __init__(self, defence: Distillation, task: TrainingTask) -> None:
        super().__init__()
        if task.teacher is None or task.public is None:
            raise MibenchError("the defence distillation was handed no teacher or no public images")
        self.defence, self.task = defence, task
        self.teacher = task.teacher
        self.images = task.public(defence.images or None)  # uint8 (N, 3, S, S)
        if not len(self.images):
            raise MibenchError("the data set has no public images to distil with")
        self.order: tuple[int, Tensor] | None = None  # epoch, and every image that it shows, one after the other
        self.wanted: Tensor | None = None  # the teacher's logits of the running step

    def batch(self, batch: Batch) -> Batch:
        """As many public images, not augmented, under the teacher's labels."""
        count, steps, device = batch.plain, self.task.steps_per_epoch, batch.images.device
        if self.order is None or self.order[0] != batch.epoch:
            self.order = batch.epoch, self._shuffled(steps * self.task.batch_size, batch.epoch)
        first = (batch.step % steps) * self.task.batch_size
        rows = self.order[1][first : first + count]
        images = (self.images[rows].float() / 255).to(device)
        with torch.no_grad(), self.task.autocast():
            self.wanted = self.teacher.logits(images).float()
        return replace(batch, images=images, labels=self.wanted.argmax(dim=1))

    def _shuffled(self, wanted: int, epoch: int) -> Tensor:
        """Indices of public images, each once before any is shown again."""
        rounds = range(-(-wanted // len(self.images)))
        generators = [self.task.streams.generator("order", epoch, number) for number in rounds]
        return torch.cat([torch.randperm(len(self.images), generator=one) for one in generators])[:wanted]

    def classification_loss(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor | None:
        """The divergence from what the teacher answers."""
        assert self.wanted is not None
        return distillation_losses(logits, self.wanted, self.defence.temperature)


@dataclass(frozen=True, kw_only=True)
class Distillation(Defence):
    """Train on public images and the undefended twin's answers to them (MIA toolbox, knowledge distillation).

    Attributes:
        temperature: of both softmaxes.
        images: public ones to show, the first; 0: all.
    """

    name: ClassVar[str] = "distillation"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    alone: ClassVar[bool] = True
    replaces_loss: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True

    temperature: float = 1.0
    images: int = 0

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 < self.temperature <= 100:
            raise MibenchError(f"defence.temperature must lie in (0, 100], got {self.temperature}")
        if self.images < 0:
            raise MibenchError(f"defence.images must be a number of images, or 0 for all, got {self.images}")

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """The student's images and loss."""
        return DistillationHooks(self, task)
