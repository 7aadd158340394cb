"""Students: fresh networks that learn a victim's answers to public images and then judge images beside it.

LOMMA's "augmented models" (Nguyen et al., CVPR 2023, arXiv 2304.01669). The victim is asked once, before a student
trains; what a student is shown is no query. No weights are loaded: the released students began as ImageNet's.

Legend: N images ``(N, 3, H, W)`` in [0, 1], B of a batch, C classes of the victim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn

from mibench.api import Context, MibenchError, load_strictly
from mibench.api.training import initial_weights
from mibench.rng import Streams

from .batching import should_report

CHANNELS = (32, 64, 128, 256)  # of the small students; each stage halves the side
Scale = Literal["divide", "multiply"]


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, scale: Scale = "divide") -> Tensor:
    """Kullback-Leibler divergence of softmax(teacher / tau) from softmax(student / tau), ``(B,)``.

    Args:
        student, teacher: logits ``(B, C)``.
        temperature: tau.
        scale: the divergence is divided by tau squared (released code), or multiplied by it (Hinton et al., 2015, which
            keeps the size of the gradients).
    """
    of_teacher, of_student = ((logits / temperature).log_softmax(dim=1) for logits in (teacher, student))
    divergence = (of_teacher.exp() * (of_teacher - of_student)).sum(dim=1)
    return divergence / temperature**2 if scale == "divide" else divergence * temperature**2


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a student is trained.

    Attributes:
        epochs, batch_size: over the public images, shuffled in each epoch.
        learning_rate, momentum, weight_decay: of stochastic gradient descent.
        temperature, scale: as :func:`distillation_loss` takes them.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    temperature: float
    scale: Scale


def distil(
    context: Context, name: str, images: Tensor, answers: Tensor, settings: Distillation, streams: Streams
) -> nn.Module:
    """A fresh network of that name, trained on the victim's answers, frozen and in eval mode.

    Args:
        context: device, log and progress bar.
        name: one of :data:`STUDENTS`.
        images: public ones, on the device.
        answers: the victim's logits of them ``(N, C)``, on the device.
        settings: of the training.
        streams: the student's own.
    """
    network = initial_weights(streams, "initial weights", build=lambda: STUDENTS[name](answers.shape[1]))
    network = network.to(context.device).train()
    sgd = torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    losses: list[Tensor] = []
    for epoch in range(settings.epochs):
        order = torch.randperm(len(images), generator=streams.generator("order", epoch)).to(images.device)
        batches = [rows for rows in order.split(settings.batch_size) if len(rows) > 1]  # one image has no statistics
        epoch_losses = []
        for number, rows in enumerate(batches, start=1):
            logits = network(images[rows]).float()
            each = distillation_loss(logits, answers[rows], temperature=settings.temperature, scale=settings.scale)
            sgd.zero_grad()
            each.mean().backward()
            sgd.step()
            epoch_losses.append(each.detach().mean())
            if should_report(number, len(batches), 10):
                done = epoch * len(batches) + number
                context.progress(done, settings.epochs * len(batches), f"distil {name}")
        losses.append(torch.stack(epoch_losses).mean())
    network = network.eval().requires_grad_(False)
    trained = torch.stack(losses)
    if not torch.isfinite(trained[-1]):
        raise MibenchError(f"the student {name} did not learn: its loss is not finite", cure="lower student_rate")
    context.log(
        event="student",
        network=name,
        images=len(images),
        loss=[round(value, 4) for value in trained.tolist()],
        agreement=round(agreement(network, images, answers, context.micro_batch), 4),
    )
    return network


@torch.no_grad()
def agreement(network: nn.Module, images: Tensor, answers: Tensor, micro_batch: int) -> float:
    """Share of the images for which a student's first class is the victim's. It was trained on these very images."""
    own = torch.cat([network(part).argmax(dim=1) for part in images.split(micro_batch)])
    return float((own == answers.argmax(dim=1)).float().mean())


def load_student(name: str, weights: Mapping[str, Tensor], classes: int) -> nn.Module:
    """A student from its weights, frozen and in eval mode, where they are; no random number is drawn."""
    device = next(iter(weights.values())).device
    with torch.device("meta"):
        network = STUDENTS[name](classes)
    network = network.to_empty(device=device)
    load_strictly(network, weights, message=lambda misfit: f"the stored student {name} is another network: {misfit}")
    return network.eval().requires_grad_(False)


def check_students(attack: str, names: Sequence[str]) -> None:
    """Refuse names that no student has.

    Raises:
        MibenchError: with the names there are.
    """
    for name in names:
        if name not in STUDENTS:
            raise MibenchError(f"{attack}: unknown student {name!r}", cure=f"choose among {', '.join(STUDENTS)}")


# ---------------------------------------------------------------- networks


class _Residual(nn.Module):
    """Two convolutions beside a 1 x 1 shortcut; halves the side."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(into, out, stride=2), nn.ReLU(), *_convolution(out, out, stride=1))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(into, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) + self.shortcut(x)
        return y.relu()


def _convolution(into: int, out: int, *, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out)


def _classifier(stages: Sequence[nn.Module], classes: int) -> nn.Module:
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], classes))


def plain(classes: int) -> nn.Module:
    """Four convolutions, each of which halves the side: 0.4 million weights without the last layer."""
    sizes = pairwise((3, *CHANNELS))
    stages = [nn.Sequential(*_convolution(into, out, stride=2), nn.ReLU()) for into, out in sizes]
    return _classifier(stages, classes)


def residual(classes: int) -> nn.Module:
    """A convolution and three residual blocks: 1.2 million weights without the last layer."""
    first = nn.Sequential(*_convolution(3, CHANNELS[0], stride=2), nn.ReLU())
    blocks = [_Residual(into, out) for into, out in pairwise(CHANNELS)]
    return _classifier([first, *blocks], classes)


def _efficientnet(name: str) -> Callable[[int], nn.Module]:
    """torchvision's, without dropout and skipped blocks, whose random draws would be global ones."""

    def build(classes: int) -> nn.Module:
        network: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=classes, dropout=0.0, stochastic_depth_prob=0.0
        )
        return network

    return build


STUDENTS: dict[str, Callable[[int], nn.Module]] = {
    "plain": plain,
    "residual": residual,
    **{name: _efficientnet(name) for name in ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2")},
}
