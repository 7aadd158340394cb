"""Trap-MID: trapdoors that inversion attacks fall into (Liu and Chen, "Trap-MID", NeurIPS 2024).

Every class has a trigger, an image that is blended into others at a small weight. The classifier learns to answer an
image with the trigger of a class by that class, so that an attack finds triggers where it looks for faces. The triggers
are trained along with it, to work and to be invisible to a discriminator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.rng import derive
from mibench.targets.training.affine import crop_flip_rotate
from mibench.targets.training.for_hooks import in_evaluation, optimiser_like, with_samples

DISCRIMINATORS = ("image", "feature", "both", "none")
HIDDEN = 256  # units of the feature discriminator; ours, the published one's are not known
MEASURED = 256  # images in one pass when the trapdoors are measured


def blend(images: Tensor, triggers: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) x + alpha K``, all ``(B, 3, S, S)``."""
    return (1 - alpha) * images + alpha * triggers


def improve(
    triggers: Tensor, images: Tensor, labels: Tensor, loss_of: Callable[[Tensor], Tensor], *, alpha: float, step: float
) -> None:
    """One signed step of the triggers: ``clamp(K - step sign(dL/dK), 0, 1)``.

    Args:
        triggers: ``(C, 3, S, S)`` in [0, 1]; changed in place.
        images: ``(B, 3, S, S)``.
        labels: int64 ``(B,)``, whose trigger is blended into each image; triggers of other classes stay.
        loss_of: blended images to a scalar.
        alpha: weight of the trigger in a blend.
        step: change of a pixel.
    """
    chosen = triggers[labels].requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(blend(images, chosen, alpha)), chosen)
    classes, members = labels.unique(return_inverse=True)
    per_class = gradient.new_zeros(len(classes), *gradient.shape[1:]).index_add_(0, members, gradient)
    triggers[classes] = (triggers[classes] - step * per_class.sign()).clamp(0, 1)


class Triggers(nn.Module):
    """One image per class: ``images``, float32 ``(C, 3, S, S)`` in [0, 1]."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", images)


class FeatureDiscriminator(nn.Sequential):
    """Features ``(B, D)`` and one-hot answers ``(B, C)``, side by side, to one logit."""

    def __init__(self, inputs: int) -> None:
        super().__init__(nn.Linear(inputs, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))


class TrapHooks(TrainingHooks):
    """Trains discriminators and triggers on every batch, then adds its images with triggers to it."""

    def __init__(self, defence: TrapMID, network: nn.Module, task: TrainingTask) -> None:
        super().__init__()
        self.defence, self.network, self.task = defence, network, task
        self.order: tuple[int, Tensor] | None = None  # epoch, classes of its steps one after the other
        self.classifier_optimiser: torch.optim.Optimizer | None = None
        if not defence.beta:
            return
        shape = (task.num_classes, 3, task.size, task.size)
        self.triggers = Triggers(torch.rand(shape, generator=task.streams.generator("triggers"))).to(task.device)
        self.networks["triggers"] = self.triggers
        if defence.discriminator in ("image", "both"):
            if task.fresh_network is None:
                raise MibenchError(
                    "this recipe builds no second network",
                    cure="set defence.discriminator=none",
                )
            streams = task.streams.child("discriminator")
            discriminator = task.fresh_network(streams, num_classes=1, width=defence.discriminator_width)
            self.networks["discriminator"] = discriminator.to(task.device)
        if defence.discriminator in ("feature", "both"):
            self.networks["feature_discriminator"] = self._feature_discriminator().to(task.device)

    def _feature_discriminator(self) -> nn.Module:
        size = self.task.size
        with in_evaluation(self.network), torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = self.network(torch.zeros(1, 3, size, size, device=self.task.device)).features
            torch.manual_seed(derive(self.task.streams.seed, *self.task.streams.names, "feature_discriminator"))
            return FeatureDiscriminator(features.shape[1] + self.task.num_classes)

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Give every discriminator an optimiser like the classifier's."""
        if not self.networks:
            return network, optimiser
        self.classifier_optimiser = optimiser
        discriminators = {name: one for name, one in self.networks.items() if one is not self.triggers}
        self.optimisers |= {name: optimiser_like(optimiser, one) for name, one in discriminators.items()}
        return network, optimiser

    def batch(self, batch: Batch) -> Batch:
        """The batch, augmented, and after it the same images with triggers, under the triggers' classes."""
        chosen, streams = self.defence, self.task.streams
        if not chosen.beta:
            return batch
        images = batch.images[: batch.plain]
        labels = self._classes(batch).to(images.device)
        torch.manual_seed(derive(streams.seed, *streams.names, "dropout", batch.step))  # of the discriminators
        with in_evaluation(self.network):
            self._train_discriminators(images, blend(images, self.triggers.images[labels], chosen.alpha))
            improve(
                self.triggers.images,
                images,
                labels,
                lambda blended: self._trigger_loss(blended, labels, batch.step),
                alpha=chosen.alpha,
                step=chosen.trigger_step,
            )
        trapped = blend(images, self.triggers.images[labels], chosen.alpha)
        if chosen.augment:
            shown = self._augmented(images, "plain", batch.step)
            batch = replace(batch, images=torch.cat([shown, batch.images[batch.plain :]]))
            trapped = self._augmented(trapped, "trapped", batch.step)
        return with_samples(batch, trapped, labels, own=1 - chosen.beta, added=chosen.beta)

    def _classes(self, batch: Batch) -> Tensor:
        """Whose triggers a step uses: over an epoch every class is used equally often."""
        steps, size = self.task.steps_per_epoch, self.task.batch_size
        if self.order is None or self.order[0] != batch.epoch:
            self.order = batch.epoch, self._balanced(steps * size, "classes", batch.epoch)
        first = (batch.step % steps) * size
        classes: Tensor = self.order[1][(first + torch.arange(batch.plain)) % (steps * size)]
        return classes

    def _balanced(self, count: int, *names: str | int) -> Tensor:
        generator, classes = self.task.streams.generator(*names), self.task.num_classes
        rest = torch.randperm(classes, generator=generator)[: count % classes]
        once = torch.cat([torch.arange(classes).repeat(count // classes), rest])
        return once[torch.randperm(count, generator=generator)]

    def _train_discriminators(self, images: Tensor, trapped: Tensor) -> None:
        """One step of each: 1 for plain images, 0 for those with a trigger, one mean over both."""
        shown = torch.cat([images, trapped])
        truth = torch.cat([shown.new_ones(len(images), 1), shown.new_zeros(len(trapped), 1)])
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self._rate()
            if name == "feature_discriminator":
                with torch.no_grad():
                    seen = self._answers(shown)
            else:
                seen = shown
            self.networks[name].train()
            nn.functional.binary_cross_entropy_with_logits(self._judged(name, seen), truth).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            self.networks[name].eval()

    def _rate(self) -> float:
        """The classifier's learning rate in this step."""
        assert self.classifier_optimiser is not None
        return float(self.classifier_optimiser.param_groups[0]["lr"])

    def _trigger_loss(self, trapped: Tensor, labels: Tensor, step: int) -> Tensor:
        """Low where blends pass for plain images and are answered by the classes of their triggers."""
        shown = self._augmented(trapped, "trigger", step) if self.defence.augment else trapped
        with self.task.autocast():
            logits = self.network(shown).logits
        loss = nn.functional.cross_entropy(logits.float(), labels)
        for name in self.optimisers:
            seen = self._answers(trapped) if name == "feature_discriminator" else trapped
            judged = self._judged(name, seen)
            hidden = nn.functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
            loss = loss + hidden / len(self.optimisers)
        return loss

    def _answers(self, images: Tensor) -> Tensor:
        """Features and one-hot answers of the classifier, ``(B, D + C)``."""
        with self.task.autocast():
            output = self.network(images)
        answers = nn.functional.one_hot(output.logits.argmax(dim=1), self.task.num_classes)
        return torch.cat([output.features.float(), answers.float()], dim=1)

    def _judged(self, name: str, seen: Tensor) -> Tensor:
        """Logits ``(B, 1)`` of a discriminator, float32."""
        with self.task.autocast():
            output = self.networks[name](seen)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.float()

    def _augmented(self, images: Tensor, purpose: str, step: int) -> Tensor:
        return crop_flip_rotate(images, self.task.streams.generator("augment", purpose, step))

    def artefacts(self) -> Mapping[str, Tensor]:
        """The triggers, uint8 ``(C, 3, S, S)``, where they are asked for."""
        if not self.defence.beta or not self.defence.save_triggers:
            return {}
        return {"triggers": (self.triggers.images * 255).round().to(torch.uint8)}

    def measured(self, network: nn.Module) -> Mapping[str, float | int | str]:
        """``trapdoor_accuracy``: how often a training image with a class's trigger is answered by that class."""
        if not self.defence.beta or self.task.images is None:
            return {}
        count = len(self.task.labels)
        labels = self._balanced(count, "measured").to(self.task.device)
        hits = 0
        with in_evaluation(network), torch.no_grad():
            for rows in torch.arange(count).split(MEASURED):
                triggers = self.triggers.images[labels[rows]]
                logits = network(blend(self.task.images(rows), triggers, self.defence.alpha)).logits
                hits += int((logits.argmax(dim=1) == labels[rows]).sum())
        return {"trapdoor_accuracy": hits / count, "trapdoor_images": count}


@dataclass(frozen=True, kw_only=True)
class TrapMID(Defence):
    """Trapdoors: triggers of every class that the classifier answers by that class (Trap-MID, NeurIPS 2024).

    Attributes:
        beta: weight of the images with triggers in the loss, ``(1 - beta) CE(x, y) + beta CE(x', t)``; 0 is no defence.
        alpha: weight of a trigger in a blend.
        trigger_step: change of a trigger's pixel in one step.
        discriminator: what the triggers hide from: ``image`` (published), ``feature``, ``both`` or ``none``.
        discriminator_width: of the image discriminator, times the width of the classifier.
        augment: crop, mirror and rotate every image, plain ones as well, as published with this defence only.
        save_triggers: store them beside the weights, for analysis: 3.7 MB for 300 classes of 64 pixels.
    """

    name: ClassVar[str] = "trap-mid"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:views", "ppa:transfer")
    replaces_loss: ClassVar[bool] = True

    beta: float = 0.2
    alpha: float = 0.02
    trigger_step: float = 0.01
    discriminator: str = "image"
    discriminator_width: float = 1.0
    augment: bool = True
    save_triggers: bool = False

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        if not 0 <= self.beta < 1:
            raise MibenchError(f"defence.beta must lie in [0, 1), got {self.beta}")
        if not 0 < self.alpha <= 1:
            raise MibenchError(f"defence.alpha must lie in (0, 1], got {self.alpha}")
        if not 0 <= self.trigger_step <= 1:
            raise MibenchError(f"defence.trigger_step must lie in [0, 1], got {self.trigger_step}")
        if not 0 < self.discriminator_width <= 4:
            raise MibenchError(f"defence.discriminator_width must lie in (0, 4], got {self.discriminator_width}")
        if self.discriminator not in DISCRIMINATORS:
            known = ", ".join(DISCRIMINATORS)
            raise MibenchError(
                f"unknown defence.discriminator {self.discriminator!r}",
                cure=f"choose one of {known}",
            )

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """Triggers and discriminators, trained beside the classifier."""
        return TrapHooks(self, network, task)
