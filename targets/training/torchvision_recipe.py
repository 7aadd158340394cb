"""The recipe of the 224-pixel family: how Plug & Play Attacks (PPA) trains targets and evaluators.

Images in [0, 1] are cropped, jittered and flipped, then normalised to [-1, 1]: the network is trained, measured and
attacked behind the same normalisation, which its card carries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mibench.api import ImageSpec, MibenchError, load_strictly
from mibench.targets.networks.torchvision_networks import Head

from .augment import plain_batch
from .jitter import Jitter, apply, draw
from .optimisation import stepped
from .recipes import TrainClassifier

SCHEDULES = ("none", "cosine", "steps")
RAMP = (0.5, 0.75)  # of the training: where negative label smoothing sets in and where it is whole (released: 50, 75)


@dataclass(frozen=True, kw_only=True)
class TrainLargeClassifier(TrainClassifier):
    """PPA's released configuration: Adam 1e-3, batches of 128, 100 epochs, MultiStep, crop, jitter and flip."""

    augmentations: ClassVar[tuple[str, ...]] = ("none", "jitter")
    least_smoothing: ClassVar[float] = -math.inf

    architecture: str = "resnet18"
    size: int = 224
    epochs: int = 100
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "steps"  # none | cosine | steps
    milestones: tuple[int, ...] = (75, 90)  # epochs after which the rate falls (steps)
    decay: float = 0.1  # by this factor
    batch_size: int = 128
    augment: str = "jitter"  # none | jitter: what follows; flip as everywhere
    crop_scale: tuple[float, float] = (0.85, 1.0)  # area of a square crop; the released template: 0.75, 1
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.1  # the released template: 0
    hue: float = 0.1  # the released template: 0
    label_smoothing: float = 0.0  # negative: by a ramp, from none in the first half to whole after three quarters
    mean: float = 0.5  # of every channel
    std: float = 0.5

    @property
    def image(self) -> ImageSpec:
        return ImageSpec(size=self.size, mean=(self.mean,) * 3, std=(self.std,) * 3)

    @property
    def jitter(self) -> Jitter:
        """Crop, colours and flip as one value."""
        return Jitter(
            scale=self.crop_scale,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
            flip=self.flip,
        )

    def check(self, images: int | None = None) -> None:
        """Raise where a setting makes no sense."""
        if self.schedule not in SCHEDULES:
            raise MibenchError(f"unknown schedule {self.schedule!r}", cure=f"choose one of {', '.join(SCHEDULES)}")
        if not self.label_smoothing <= 1:
            raise MibenchError(f"label_smoothing must be 1 at most, got {self.label_smoothing}")
        super().check(images)
        _ = self.jitter  # checks its own settings
        if not self.std > 0:
            raise MibenchError(f"std must be a positive number, got {self.std}")

    def start(self, network: nn.Module, initial: Mapping[str, Tensor] | None) -> None:
        """Put the weights of the backbone ``init``, a whole network, into a fresh one; see :func:`start_whole`."""
        if initial is None:
            raise MibenchError(f"the weights of the backbone {self.init!r} were not handed over to the recipe")
        start_whole(network, initial, backbone=str(self.init), architecture=self.architecture)

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step."""
        if self.schedule != "steps":
            return super().rate(step, steps_per_epoch)
        epoch = step // steps_per_epoch
        return stepped(epoch, peak=self.learning_rate, milestones=self.milestones, decay=self.decay)

    def batch(self, store: Tensor, indices: Tensor, generator: torch.Generator, device: torch.device) -> Tensor:
        """Images ``(B, 3, S, S)`` in [0, 1], each with its own crop, colours and flip."""
        if self.augment == "none":
            return super().batch(store, indices, generator, device)
        drawn = draw(len(indices), store.shape[1], self.jitter, generator)
        return apply(plain_batch(store, indices, device), drawn, self.jitter)

    def loss(self, output: Any, labels: Tensor, epoch: int) -> Mapping[str, Tensor]:
        """Cross entropy with smoothed labels; in training Inception-v3 adds its auxiliary classifier's, weight 1."""
        smoothing = self.label_smoothing
        if smoothing < 0:
            smoothing *= ramp(epoch, self.epochs)
        main, auxiliary = (output.logits, output.aux_logits) if hasattr(output, "aux_logits") else (output, None)
        logits = main.logits.float()
        entropy = smoothed_cross_entropy(logits, labels, smoothing)
        values = {"loss": entropy, "accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        if auxiliary is not None:
            values["loss"] = entropy + smoothed_cross_entropy(auxiliary.float(), labels, smoothing)
        return values


@dataclass(frozen=True, kw_only=True)
class TrainLargeTarget(TrainLargeClassifier):
    """A classifier of torchvision to attack, at 224 pixels."""

    kind: ClassVar[str] = "target"
    defends: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class TrainTimmTarget(TrainLargeClassifier):
    """A classifier of timm to attack; ``model`` is timm's name for it."""

    kind: ClassVar[str] = "target"
    defends: ClassVar[bool] = True

    architecture: str = "timm"
    model: str = ""

    def check(self, images: int | None = None) -> None:
        super().check(images)
        if not self.model:
            raise MibenchError("which of timm's models? --set train.model=NAME, vit_small_patch16_224 say")

    def arguments(self) -> dict[str, object]:
        return {**super().arguments(), "model": self.model}


@dataclass(frozen=True, kw_only=True)
class TrainLargeJudge(TrainLargeClassifier):
    """The evaluator: Inception-v3 at 299 pixels. Milestones are those for FaceScrub and dogs; for CelebA 75 and 90."""

    kind: ClassVar[str] = "judge"

    architecture: str = "inception_v3"
    size: int = 299
    milestones: tuple[int, ...] = (80,)


def start_whole(network: nn.Module, weights: Mapping[str, Tensor], *, backbone: str, architecture: str) -> None:
    """Load a network trained on other classes, but for final layers whose number of classes differs: those stay fresh.

    Raises:
        MisfitError: it is another network, or of another width or (ViT) image size.
    """
    wanted = network.state_dict()
    final = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, Head))
    fresh = {
        key: tensor
        for key, tensor in wanted.items()
        if key.startswith((*final, "AuxLogits.fc."))
        and (key not in weights or weights[key].shape[0] != tensor.shape[0])
    }
    # a network for small images has no auxiliary classifier
    given = {k: v for k, v in weights.items() if k in wanted or not k.startswith("AuxLogits.")} | fresh
    load_strictly(
        network,
        given,
        message=lambda mismatch: (
            f"backbone {backbone!r} is not {architecture} as it is trained here: {mismatch.summary()}; take the one of "
            f"the same network, {architecture}@imagenet, at the same train.width (and, for a ViT, train.size)"
        ),
    )


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over the batch of ``(1 - s) * CE(label) + s * mean over classes of CE(class)``; ``s`` may be negative.

    Args:
        logits: ``(B, C)``.
        labels: int64 ``(B,)``.
        smoothing: ``s``.
    """
    if 0 <= smoothing <= 1:
        return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    unlikely = -logits.log_softmax(dim=1)
    own = unlikely.gather(1, labels[:, None]).squeeze(1)
    return ((1 - smoothing) * own + smoothing * unlikely.mean(dim=1)).mean()


def ramp(epoch: int, epochs: int) -> float:
    """Share of negative smoothing in an epoch (from 0): none, linear between the bounds of :data:`RAMP`, then whole."""
    start, whole = (bound * epochs for bound in RAMP)
    return min(max((epoch - start) / (whole - start), 0.0), 1.0)
