"""LOMMA: a logit loss, a regulariser of features, and students (Nguyen et al., CVPR 2023, arXiv 2304.01669).

What it adds to GMI and to KEDMI, whose loops stay: their identity loss becomes, over the victim T_0 and students T_k,

    L_id = (1 / n) sum_k a_k + lambda |h_0 - c|^2 / D,    a_k = -o_k[y],

with T_0's features ``h_0`` and a centre ``c``, the mean feature of public images.

Legend: U identities of a unit, R images of each, N = U R, D dimension of the features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mibench.api import Context, MibenchError, Queries, State, Victim
from mibench.rng import Streams

from .batching import micro_batches
from .latent_optimisation import Objective
from .losses import IdentityLoss, identity_loss
from .requirements import check_ranges
from .students import Distillation, Scale, check_students, distil, load_student

Centre = Literal["mean", "sampled"]


def regulariser(features: Tensor, centre: Tensor) -> Tensor:
    """``|h - c|^2 / D`` ``(N,)`` of features ``(N, D)`` as they are from a centre ``(D,)`` or ``(N, D)``."""
    return (features - centre).square().mean(dim=1)


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(D,)`` of features ``(N, D)``."""
    spread, mean = torch.std_mean(features.float(), dim=0)
    return mean, spread


@dataclass(frozen=True, kw_only=True)
class Lomma:
    """The settings of LOMMA and what follows from them. The defaults are the released configuration's.

    It is mixed into an attack that recovers latents and asks it for an ``objective``.
    """

    name: ClassVar[str]
    loss: str = "logit"  # of the victim and of each student; L_aug alone: cross_entropy
    regulariser_weight: float = 1.0  # lambda, released configuration (code default 0.1, MIBench toolbox 0.4); 0: none
    centre: Centre = "mean"  # released code; sampled: drawn about it in each step (paper, MIBench toolbox)
    feature_images: int = 5050  # public images behind the centre; released code: 101 batches of 50
    students: tuple[str, ...] = ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2")  # released; (): none
    student_images: int = 30_000  # public images that the students learn from; released
    student_epochs: int = 20  # released configuration
    student_batch: int = 64  # released configuration
    student_rate: float = 0.01  # released configuration (its folder of checkpoints says 0.02)
    student_momentum: float = 0.9  # released configuration
    student_decay: float = 1e-4  # released configuration: of weights
    temperature: float = 1.0  # released configuration
    temperature_scale: Scale = "divide"  # released code: by its square; multiply: Hinton et al.; alike at 1

    def check_lomma(self) -> None:
        """Refuse what makes no sense in these settings."""
        check_ranges(
            self,
            at_least_one=("student_epochs",),
            positive=("student_rate", "temperature"),
            not_negative=("regulariser_weight", "student_decay"),
        )
        check_students(self.name, self.students)
        for setting in ("feature_images", "student_images", "student_batch"):
            if getattr(self, setting) < 2:
                raise MibenchError(f"{self.name}: {setting} must be at least 2, got {getattr(self, setting)}")
        if not 0 <= self.student_momentum < 1:
            raise MibenchError(f"{self.name}: student_momentum must lie in [0, 1), got {self.student_momentum}")

    @property
    def public_images(self) -> int:
        """Public images that the victim is shown: those behind the centre are the first that students learn from."""
        behind_centre = self.feature_images if self.regulariser_weight else 0
        return max(behind_centre, self.student_images if self.students else 0)

    def planned_preparation(self) -> Queries:
        """Every public image once; what a student is shown costs nothing."""
        return Queries(forward=self.public_images)

    def prepare(self, context: Context, streams: Streams) -> State:
        """Mean and standard deviation of the victim's features, and the students' weights."""
        if not self.public_images:
            return {}
        images = self._public(context)
        features, answers = self._answers(context, images)
        state: dict[str, Tensor] = {}
        if self.regulariser_weight:
            state["feature_mean"], state["feature_std"] = feature_statistics(features)
        settings = Distillation(
            epochs=self.student_epochs,
            batch_size=self.student_batch,
            learning_rate=self.student_rate,
            momentum=self.student_momentum,
            weight_decay=self.student_decay,
            temperature=self.temperature,
            scale=self.temperature_scale,
        )
        images, answers = images[: self.student_images], answers[: self.student_images].to(context.device)
        for number, name in enumerate(self.students):
            network = distil(context, name, images, answers, settings, streams.child("student", number))
            state |= {f"student.{number}.{key}": value.cpu() for key, value in network.state_dict().items()}
        return state

    def objective(self, context: Context, state: State, labels: Tensor, each: int, streams: Streams) -> Objective:
        """L_id of ``each`` images of every identity, and beside it the regulariser."""
        students = [
            load_student(name, _below(f"student.{number}.", state), context.victim.num_classes)
            for number, name in enumerate(self.students)
        ]
        targets = labels.to(context.device).repeat_interleave(each)
        weight, of_step = self.regulariser_weight, _Centres(state, labels, each, streams, self.centre)

        def losses(images: Tensor, part: slice, step: int) -> dict[str, Tensor]:
            features, identity = mean_identity_loss(
                context.victim, students, images, targets[part], identity_loss(self.loss)
            )
            if not weight:
                return {"L_id": identity}
            distance = regulariser(features, of_step(step)[part])
            return {"L_id": identity + weight * distance, "L_reg": distance}

        return losses

    def _public(self, context: Context) -> Tensor:
        """The public images, on the device.

        Raises:
            MibenchError: there are fewer.
        """
        images = None if context.public is None else context.public(self.public_images)
        have = 0 if images is None else len(images)
        if images is None or have < self.public_images:
            raise MibenchError(
                f"{self.name} needs {self.public_images} public images, there are {have}",
                cure=f"--set attack.feature_images={have} --set attack.student_images={have}"
                if have > 1
                else "--set attack.students=[] --set attack.regulariser_weight=0",
            )
        return images.to(context.device)

    @torch.no_grad()
    def _answers(self, context: Context, images: Tensor) -> tuple[Tensor, Tensor]:
        """The victim's features ``(feature_images, D)`` and logits ``(N, C)`` of public images, on the CPU."""
        features, logits = [], []
        for part in micro_batches(len(images), context):
            output = context.victim.features_and_logits(images[part])
            features.append(output.features[: max(0, self.feature_images - part.start)].float().cpu())
            logits.append(output.logits.float().cpu())
            context.progress(part.stop, len(images), "ask about public images")
        return torch.cat(features), torch.cat(logits)


def mean_identity_loss(
    victim: Victim, students: list[nn.Module], images: Tensor, targets: Tensor, loss: IdentityLoss
) -> tuple[Tensor, Tensor]:
    """The victim's features ``(N, D)``, and the mean over victim and students of their identity losses ``(N,)``."""
    features, logits = victim.features_and_logits(images)
    losses = [loss(logits.float(), targets), *(loss(student(images).float(), targets) for student in students)]
    return features.float(), torch.stack(losses).sum(dim=0) / len(losses)


class _Centres:
    """Centres of the regulariser, ``(N, D)``: the mean, or in each step one drawn about it for each image."""

    def __init__(self, state: State, labels: Tensor, each: int, streams: Streams, kind: Centre) -> None:
        self.state, self.names, self.each, self.streams, self.kind = state, labels.tolist(), each, streams, kind
        self.step, self.drawn = 0, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        mean = self.state["feature_mean"]
        if self.kind == "mean":
            return mean.expand(len(self.names) * self.each, -1)
        if step != self.step:  # once for all micro-batches of a step
            shape, own = (self.each, len(mean)), (self.streams.child("identity", name, "centre") for name in self.names)
            noise = torch.cat([torch.randn(shape, generator=one.generator(step)) for one in own])
            self.step, self.drawn = step, mean + self.state["feature_std"] * noise.to(mean.device, non_blocking=True)
        return self.drawn


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
