"""AT-AT: anti-adversarial training.

Torp, Smith and Breuer, "Reducing information dependency does not cause training data privacy. Adversarially non-robust
features do." (ICLR 2026). Every training image is shown a second time, moved by an invisible perturbation *towards* a
wrong class and labelled with that class: ``CE(x, y) + lambda CE(x + d, y')``. The gradients that an inversion attack
follows then lead to adversarial noise instead of features of the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.rng import derive
from mibench.targets.training.for_hooks import in_evaluation, with_samples

MODES = ("eval", "train")
WRONG_LABELS = ("uniform", "next")
REDUCTIONS = ("mean", "sum")


def towards(
    images: Tensor,
    labels: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    *,
    epsilon: float,
    step: float,
    iterations: int,
    start: Tensor | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    """Targeted projected gradient descent: images within ``epsilon`` whose cross entropy for ``labels`` is lower.

    Args:
        images: ``(B, ...)`` in [low, high]; left alone.
        labels: int64 ``(B,)``, the classes to move towards.
        logits_of: images to logits ``(B, C)``.
        epsilon: largest change of a pixel, in the images' units.
        step: change of a pixel by one iteration.
        iterations: of them.
        start: ``(B, ...)``, the first perturbation; None: none.
        low, high: range of the pixels.

    Returns:
        ``(B, ...)``, detached.
    """
    moved = images if start is None else (images + start).clamp(low, high)
    for _ in range(iterations):
        moved = moved.detach().requires_grad_()
        loss = nn.functional.cross_entropy(logits_of(moved).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        change = (moved.detach() - step * gradient.sign() - images).clamp(-epsilon, epsilon)
        moved = (images + change).clamp(low, high)
    return moved.detach()


def wrong_labels(labels: Tensor, num_classes: int, generator: torch.Generator, kind: str = "uniform") -> Tensor:
    """A class other than its own for every sample, int64 ``(B,)``.

    Args:
        labels: int64 ``(B,)``.
        num_classes: C, 2 or more.
        generator: on the CPU.
        kind: ``uniform`` over the C - 1 others; ``next``, as released: uniform over all, and the own one becomes the
            next, which is twice as likely as any other.
    """
    count = len(labels)
    if kind == "uniform":
        return (labels + torch.randint(1, num_classes, (count,), generator=generator).to(labels)) % num_classes
    drawn = torch.randint(0, num_classes, (count,), generator=generator).to(labels)
    return torch.where(drawn == labels, (drawn + 1) % num_classes, drawn)


class AntiAdversarialHooks(TrainingHooks):
    """Adds the perturbed images under their wrong labels to every batch."""

    def __init__(self, defence: AntiAdversarial, network: nn.Module, task: TrainingTask) -> None:
        super().__init__()
        self.defence, self.network, self.task = defence, network, task
        if defence.weight:
            _check_precision(defence.epsilon, task)

    def _logits(self, images: Tensor) -> Tensor:
        with self.task.autocast():
            logits: Tensor = self.network(images).logits
        return logits

    def _perturbed(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        chosen, streams = self.defence, self.task.streams
        start = None
        if chosen.random_start:
            drawn = torch.rand(images.shape, generator=streams.generator("start", step)).to(images.device)
            start = chosen.epsilon * (2 * drawn - 1)
        torch.manual_seed(derive(streams.seed, *streams.names, "dropout", step))  # of the passes in training mode
        return towards(
            images,
            labels,
            self._logits,
            epsilon=chosen.epsilon,
            step=chosen.step,
            iterations=chosen.iterations,
            start=start,
        )

    def in_force(self, epoch: int) -> bool:
        """From the share of the epochs on that is trained without."""
        return epoch >= self.defence.begins * self.task.epochs

    def batch(self, batch: Batch) -> Batch:
        """The batch and, after it, its plain images once more, perturbed and under wrong labels."""
        chosen = self.defence
        if not chosen.weight or not self.in_force(batch.epoch):
            return batch
        images, own = batch.images[: batch.plain], batch.labels[: batch.plain]
        generator = self.task.streams.generator("label", batch.step)
        labels = wrong_labels(own, self.task.num_classes, generator, chosen.wrong_label)
        if chosen.perturb_in == "eval":
            with in_evaluation(self.network):
                moved = self._perturbed(images, labels, batch.step)
        else:
            moved = self._perturbed(images, labels, batch.step)
        factor = batch.plain if chosen.reduction == "sum" else 1
        return with_samples(batch, moved, labels, own=factor, added=factor * chosen.weight)


@dataclass(frozen=True, kw_only=True)
class AntiAdversarial(Defence):
    """Train on images moved towards wrong classes, labelled with those (AT-AT, ICLR 2026).

    Pixels are in [0, 1]; the release counts in [-1, 1], where distances are twice as large.

    Attributes:
        weight: lambda, of the perturbed images' cross entropy beside that of the plain ones; 0 is no defence.
        epsilon: largest change of a pixel.
        step: change of a pixel by one iteration.
        iterations: of the perturbation.
        random_start: begin at a random perturbation.
        begins: share of the epochs that are trained without, 0 as released.
        perturb_in: ``eval``, or ``train`` as released, where the search moves the running statistics of norms.
        wrong_label: ``uniform`` over the other classes, or ``next`` as released, which favours the next class.
        reduction: ``mean`` over the images, or ``sum`` as released, which differs except under Adam without decay.
    """

    name: ClassVar[str] = "at-at"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:views", "ppa:transfer")
    replaces_loss: ClassVar[bool] = True

    weight: float = 0.08
    epsilon: float = 2.5e-4
    step: float = 5e-5
    iterations: int = 5
    random_start: bool = True
    begins: float = 0.0
    perturb_in: str = "eval"
    wrong_label: str = "uniform"
    reduction: str = "mean"

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.weight < math.inf:
            raise MibenchError(f"defence.weight must be finite and not negative, got {self.weight}")
        if not 0 < self.epsilon <= 1:
            raise MibenchError(f"defence.epsilon must lie in (0, 1], pixels do, got {self.epsilon}")
        if not 0 < self.step <= 1:
            raise MibenchError(f"defence.step must lie in (0, 1], pixels do, got {self.step}")
        if self.iterations < 1:
            raise MibenchError(f"defence.iterations must be 1 or more, got {self.iterations}")
        if not 0 <= self.begins < 1:
            raise MibenchError(f"defence.begins must be a share of the epochs in [0, 1), got {self.begins}")
        for name, known in (("perturb_in", MODES), ("wrong_label", WRONG_LABELS), ("reduction", REDUCTIONS)):
            value = getattr(self, name)
            if value not in known:
                raise MibenchError(
                    f"unknown defence.{name} {value!r}",
                    cure=f"choose one of {', '.join(known)}",
                )

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """Perturbs the images of every step with the network as it is then."""
        return AntiAdversarialHooks(self, network, task)


def _check_precision(epsilon: float, task: TrainingTask) -> None:
    """Refuse a precision in which the perturbed images are the plain ones: bfloat16 steps by 1/256 below 1."""
    kind = task.device.type
    with task.autocast():
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    if epsilon < (spacing := torch.finfo(dtype).eps / 2):
        raise MibenchError(
            f"at-at moves pixels by up to {epsilon}, {str(dtype).removeprefix('torch.')} tells apart no less than "
            f"{spacing:.3g}",
            cure="add --precision float32 (the card then says where the training left its twin's recipe)",
        )
