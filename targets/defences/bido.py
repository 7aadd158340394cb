"""BiDO (Peng et al., "Bilateral Dependency Optimization", KDD 2022): hidden layers forget pixels and keep labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, ClassifierOutput, Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.targets.networks.ir import Backbone

from .dependence import COCO_NORMS, LABEL_KERNELS, MEASURES, dependence, gaussian_kernel, label_kernel, prepared

SAMPLERS = ("identity", "shuffle")


def hidden_layers(network: nn.Module) -> tuple[str, ...]:
    """The layers whose outputs the defence acts on, by name.

    VGG16: pools 1 to 4 and the feature after its BatchNorm1d, not pool 5, as released (with a bottleneck in its place:
    the flattened convolutions). IR networks and ResNets: the four stages.

    Raises:
        MibenchError: another network.
    """
    feature = getattr(network, "feature", None)
    if isinstance(feature, Backbone):
        return tuple(f"feature.body.{end - 1}" for end in accumulate(feature.units))
    if isinstance(feature, nn.Sequential):
        pools = [f"feature.{index}" for index, layer in enumerate(feature) if isinstance(layer, nn.MaxPool2d)]
        return (*pools[:4], "bn" if hasattr(network, "bn") else "feature")
    if all(hasattr(network, f"layer{number}") for number in range(1, 5)):
        return tuple(f"layer{number}" for number in range(1, 5))
    raise MibenchError(
        f"no published choice of layers exists for {type(network).__name__}",
        cure="name them, such as --set defence.layers=[LAYER,LAYER]",
    )


def identity_batches(
    images_of: Sequence[Tensor], generator: torch.Generator, *, steps: int, identities: int, images: int
) -> list[Tensor]:
    """Batches of ``identities`` x ``images``, the identities of a batch all different.

    Every identity's images are shuffled and cut into groups; those that fill no group are joined by others of the same
    identity. A batch takes one group each of the identities that have most left.

    Args:
        images_of: indices of the images of each identity, int64 ``(n,)`` on the CPU.
        generator: on the CPU.
        steps: number of batches.
        identities, images: of a batch.

    Returns:
        int64 ``(identities * images,)`` each.
    """

    def groups(own: Tensor) -> list[Tensor]:
        order = own[torch.randperm(len(own), generator=generator)]
        missing = -len(own) % images
        drawn = (
            own[torch.randint(len(own), (missing,), generator=generator)] if missing >= len(own) else order[:missing]
        )
        return list(torch.cat([order, drawn]).split(images))

    left = [groups(own) for own in images_of]
    batches = []
    for _ in range(steps):
        counts = torch.tensor([len(one) for one in left], dtype=torch.float64)
        ties = torch.rand(len(left), generator=generator, dtype=torch.float64)
        chosen = (counts + ties).topk(identities).indices.tolist()
        for index in chosen:
            left[index] = left[index] or groups(images_of[index])
        batches.append(torch.cat([left[index].pop() for index in chosen]))
    return batches


class DependenceHooks(TrainingHooks):
    """The two penalties, and batches of a few images each of a few identities."""

    def __init__(self, defence: BiDO, network: nn.Module, task: TrainingTask) -> None:
        super().__init__()
        self.defence, self.task = defence, task
        self.active = bool(defence.lambda_x or defence.lambda_y)
        if self.active:
            self.hidden_layers = defence.layers or hidden_layers(network)
        self.images_of: list[Tensor] = []
        if defence.sampler == "identity":
            labels, size = task.labels, defence.images_per_identity
            if task.batch_size % size:
                raise MibenchError(
                    f"a batch of {task.batch_size} images is no multiple of the {size} of each identity",
                    cure=(
                        "change train.batch_size or defence.images_per_identity, or say --set defence.sampler=shuffle"
                    ),
                )
            self.images_of = [(labels == label).nonzero().flatten() for label in labels.unique()]
            if len(self.images_of) < task.batch_size // size:
                raise MibenchError(
                    f"a batch takes {size} images each of {task.batch_size // size} identities, the data has "
                    f"{len(self.images_of)}",
                    cure="lower train.batch_size, or say --set defence.sampler=shuffle",
                )

    def batches(self, epoch: int) -> Sequence[Tensor] | None:
        """``B / images_per_identity`` identities in every batch; None for shuffled ones."""
        if not self.images_of:
            return None
        images = self.defence.images_per_identity
        return identity_batches(
            self.images_of,
            self.task.streams.generator("batches", epoch),
            steps=self.task.steps_per_epoch,
            identities=self.task.batch_size // images,
            images=images,
        )

    def penalties(self, output: ClassifierOutput, hidden: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        """``lambda_x sum d(h, x)`` and ``-lambda_y sum d(h, y)`` over the layers and the training images of a batch."""
        if not self.active:
            return {}
        images, labels = batch.images[: batch.plain], batch.labels[: batch.plain]
        onehot = nn.functional.one_hot(labels, self.task.num_classes)
        layers = [hidden[name][: batch.plain] for name in self.hidden_layers]
        return self.defence.penalties(images, onehot, layers)


@dataclass(frozen=True, kw_only=True)
class BiDO(Defence):
    """Bilateral dependency optimisation (Peng et al., KDD 2022).

    The loss gets ``lambda_x d(h, x) - lambda_y d(h, y)`` for every hidden layer h: the layers should depend little on
    the pixels x and much on the label y. The weights do not carry over from one measure to another, nor from one
    composition of batches to another: nHSIC(h, y) is at most the number of identities in the batch less one.

    Attributes:
        lambda_x, lambda_y: weights of the two terms; with both 0 and ``sampler=shuffle`` it is no defence, with both 0
            and ``sampler=identity`` a control for the batches alone.
        measure: ``nhsic``, what the released code calls HSIC; ``coco``; ``hsic``, what is usually called so.
        coco_norm: ``fro`` (released) or ``spectral`` (the definition).
        sigma: bandwidth of the Gaussian kernels of layers and pixels; 0: from the median of squared distances.
        label_kernel: ``linear`` (released), ``gaussian``, ``imq``.
        layers: names of modules; null: :func:`hidden_layers`. Their outputs are seen as later in-place layers leave
            them.
        sampler: ``identity``, batches of a few images each of a few identities, or ``shuffle``.
        images_per_identity: in a batch (``identity``).
    """

    name: ClassVar[str] = "bido"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)

    lambda_x: float = 0.05
    lambda_y: float = 0.5
    measure: str = "nhsic"
    coco_norm: str = "fro"
    sigma: float = 5.0
    label_kernel: str = "linear"
    layers: tuple[str, ...] | None = None
    sampler: str = "identity"
    images_per_identity: int = 4

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        for name in ("lambda_x", "lambda_y", "sigma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MibenchError(f"defence.{name} must be finite and not negative, got {getattr(self, name)}")
        known = {"measure": MEASURES, "coco_norm": COCO_NORMS, "label_kernel": LABEL_KERNELS, "sampler": SAMPLERS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise MibenchError(
                    f"unknown defence.{name} {getattr(self, name)!r}",
                    cure=f"choose one of {', '.join(values)}",
                )
        if self.layers is not None and not self.layers:
            raise MibenchError(
                "defence.layers names no layer",
                cure="name one or leave the setting out",
            )
        if self.images_per_identity < 1:
            raise MibenchError(f"defence.images_per_identity must be 1 or more, got {self.images_per_identity}")

    def penalties(self, images: Tensor, onehot: Tensor, layers: Sequence[Tensor]) -> dict[str, Tensor]:
        """The two terms of the loss, float32 scalars; computed in float64 whatever the training's precision.

        Args:
            images: ``(m, 3, S, S)`` in [0, 1].
            onehot: ``(m, C)``.
            layers: outputs ``(m, ...)`` of the hidden layers.
        """

        def gaussian(values: Tensor) -> Tensor:
            return prepared(gaussian_kernel(values.flatten(1).double(), self.sigma), self.measure)

        pixels = gaussian(images.detach())
        labels = prepared(label_kernel(onehot.double(), self.label_kernel, self.sigma), self.measure)
        kernels = [gaussian(values) for values in layers]
        on_pixels = torch.stack([dependence(kernel, pixels, self.measure, self.coco_norm) for kernel in kernels]).sum()
        on_labels = torch.stack([dependence(kernel, labels, self.measure, self.coco_norm) for kernel in kernels]).sum()
        return {
            "dependence_on_pixels": (self.lambda_x * on_pixels).float(),
            "dependence_on_labels": (-self.lambda_y * on_labels).float(),
        }

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """The penalties on the hidden layers, and the batches."""
        return DependenceHooks(self, network, task)
