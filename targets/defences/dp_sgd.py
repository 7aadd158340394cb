"""DP-SGD (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016), by opacus.

Each sample's gradient is clipped, and noise is added to their sum. With 50 images of a person nothing useful is learnt
from scratch at a small epsilon; the realistic setting trains the classifier alone, on features of a public network.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Batch, ClassifierOutput, Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.rng import derive
from mibench.targets.training.backbones import start_features_from

ACCOUNTANTS = ("prv", "rdp")
TRAINED = ("head", "all")
LEAST_BATCH = 32  # expected; a Poisson batch is then empty once in 1e14 draws
TOLERANCE = 0.005  # of epsilon, in the search for the noise
CACHING = 256  # images whose features are computed at once
NOTE = (
    "epsilon covers this one training: not those that tuned its settings, not the accuracies on this card; "
    "the noise follows from the seed, which a guarantee would have to keep secret"
)


@dataclass(frozen=True)
class Budget:
    """What a training spends.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        epsilon: spent at the end, by the accountant.
        accountant: ``prv`` or ``rdp``.
    """

    noise_multiplier: float
    epsilon: float
    accountant: str


@cache
def budget(epsilon: float, delta: float, *, rate: float, steps: int, accountant: str) -> Budget:
    """The least noise that keeps a training within epsilon.

    Args:
        epsilon, delta: asked for; what is spent lies within half a per cent below epsilon.
        rate: probability that a sample is in a batch.
        steps: of the training.
        accountant: ``prv``, which falls back to ``rdp`` where its discretisation fails, or ``rdp``.

    Raises:
        MibenchError: no noise is enough.
    """
    accounting = importlib.import_module("opacus.accountants")
    search = importlib.import_module("opacus.accountants.utils").get_noise_multiplier
    cause: Exception | None = None
    for name in dict.fromkeys((accountant, "rdp")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of orders at the edge of the table, in the middle of the search
                noise = search(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=rate,
                    steps=steps,
                    accountant=name,
                    epsilon_tolerance=TOLERANCE * epsilon,
                )
                ledger = accounting.create_accountant(mechanism=name)
                ledger.history = [(noise, rate, steps)]
                spent = float(ledger.get_epsilon(delta=delta))
        except (ValueError, RuntimeError, ArithmeticError, IndexError, MemoryError) as error:
            cause = error
            continue
        if math.isfinite(spent) and spent <= epsilon * (1 + TOLERANCE):
            return Budget(float(noise), spent, name)
    raise MibenchError(
        f"no noise keeps {steps} steps at rate {rate:.3g} within epsilon {epsilon} and delta {delta}",
        cure="raise defence.epsilon, or train less (train.epochs, train.batch_size)",
    ) from cause


def privatised(
    trained: nn.Module, optimiser: torch.optim.Optimizer, *, noise_multiplier: float, clip: float, batch_size: int
) -> Any:
    """The optimiser that steps by clipped and noised gradients of ``trained``, whose losses are means over a batch.

    Every step: (sum of gradients, each scaled by min(1, clip / (norm + 1e-6)), + N(0, (noise clip)^2)) / batch size.

    Args:
        trained: the module that holds exactly the optimiser's parameters; it records per-sample gradients from now on.
        optimiser: wrapped.
        noise_multiplier, clip: as above.
        batch_size: the expected one, by which the sum is divided whatever the number of samples.
    """
    trained.to(memory_format=torch.contiguous_format)
    for module in trained.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_contiguous)
    importlib.import_module("opacus.grad_sample").GradSampleModule(trained)
    private = importlib.import_module("opacus.optimizers").DPOptimizer(
        optimiser, noise_multiplier=noise_multiplier, max_grad_norm=clip, expected_batch_size=batch_size
    )
    private.attach_step_hook(_with_layouts_of_parameters)
    return private


def _contiguous(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Opacus 1.6 unfolds channels_last images by the wrong strides: the gradients of convolutions would be noise."""
    return tuple(tensor.contiguous() for tensor in given)


def _with_layouts_of_parameters(optimiser: Any) -> None:
    """Give every gradient the memory layout of its parameter: fused optimisers pair their elements by address."""
    for parameter in optimiser.params:
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(parameter.grad)


class _Float32(nn.Module):
    """A module outside autocast: per-sample gradients multiply activations and gradients of one type."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Any:
        with torch.autocast(inputs.device.type, enabled=False):
            return self.inner(inputs.float())


class _Head(nn.Module):
    """Features to features and logits: what the network does behind the frozen part."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Tensor) -> ClassifierOutput:
        return ClassifierOutput(features, self.classifier(features))


class PrivateHooks(TrainingHooks):
    """Poisson batches, clipped gradients, noise; and, of the head alone, features that are computed once."""

    def __init__(self, defence: DPSGD, network: nn.Module, task: TrainingTask) -> None:
        super().__init__()
        self.defence, self.task = defence, task
        self.count = len(task.labels)
        if task.batch_size < LEAST_BATCH:
            raise MibenchError(
                f"train.batch_size must be {LEAST_BATCH} or more under dp-sgd, got {task.batch_size}: batches are "
                "drawn at random, and smaller ones may be empty"
            )
        if defence.delta >= 1 / self.count:
            raise MibenchError(
                f"defence.delta must be below 1 / {self.count}, one over the training images, got {defence.delta}"
            )
        self.rate, self.steps = task.batch_size / self.count, task.epochs * task.steps_per_epoch
        self.budget = budget(
            defence.epsilon, defence.delta, rate=self.rate, steps=self.steps, accountant=defence.accountant
        )
        self.features: Tensor | None = None
        self.optimiser: Any = None
        if defence.trained == "head":
            network.requires_grad_(False)
            classifier(network).requires_grad_(True)

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The part that is trained, and the private optimiser."""
        head = self.defence.trained == "head"
        trained = classifier(network) if head else network
        if head:
            self.features = self.computed(network)
        self.train_mode(network)  # a frozen norm in training mode would pass opacus and take up private statistics
        self.optimiser = privatised(
            trained,
            optimiser,
            noise_multiplier=self.budget.noise_multiplier,
            clip=self.defence.max_grad_norm,
            batch_size=self.task.batch_size,
        )
        return _Float32(_Head(trained) if head else network), self.optimiser

    def computed(self, network: nn.Module) -> Tensor:
        """What the classifier is given for every training image ``(N, D)``, not augmented, in evaluation."""
        network.eval()
        seen: list[Tensor] = []
        watching = classifier(network).register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
        with torch.no_grad():
            for indices in torch.arange(self.count).split(CACHING):
                network(self.task.images(indices))
        watching.remove()
        return torch.cat(seen)

    def train_mode(self, network: nn.Module) -> None:
        """Only what is trained is in training mode."""
        if self.defence.trained == "head":
            network.eval()
            classifier(network).train()

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """Each image is in each batch with the same probability (Poisson sampling), as the accountant assumes."""
        generator = self.task.streams.generator("poisson", epoch)
        drawn = (torch.rand(self.count, generator=generator) < self.rate for _ in range(self.task.steps_per_epoch))
        return [chosen.nonzero().squeeze(1) for chosen in drawn]

    def inputs(self, indices: Tensor) -> Tensor | None:
        """Their features, where the head alone is trained."""
        return None if self.features is None else self.features[indices.to(self.features.device)]

    def before_update(self, network: nn.Module, batch: Batch) -> None:
        """The step's own noise, so that a resumed training draws the same."""
        streams = self.task.streams
        seed = derive(streams.seed, *streams.names, "noise", batch.step)
        self.optimiser.generator = torch.Generator(self.task.device).manual_seed(seed)

    def measured(self, network: nn.Module) -> Mapping[str, float | int | str]:
        """What was spent, and on what."""
        return {
            "epsilon": self.budget.epsilon,
            "delta": self.defence.delta,
            "noise_multiplier": self.budget.noise_multiplier,
            "sampling_rate": self.rate,
            "steps": self.steps,
            "accountant": self.budget.accountant,
            "privacy_note": NOTE,
        }


def classifier(network: nn.Module) -> nn.Module:
    """The last layer of a target."""
    layer = network.fc_layer
    assert isinstance(layer, nn.Linear)
    return layer


@dataclass(frozen=True, kw_only=True)
class DPSGD(Defence):
    """Differentially private SGD, with epsilon on the card.

    Attributes:
        epsilon, delta: the guarantee for adding or removing one *image*, not one person; delta below one over the
            number of training images.
        accountant: ``prv``, or ``rdp``: faster, and 2 to 7 % more noise. ``prv`` falls back to it where it fails.
        max_grad_norm: to which each sample's gradient is clipped.
        trained: ``head``: the classifier on frozen public features, which are computed once, without augmentation;
            ``all``: every weight of the network with group norm, from scratch.
        public: card of the backbone of ``head``; None: ``ARCHITECTURE+public`` of the training's data set.
    """

    name: ClassVar[str] = "dp-sgd"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    alone: ClassVar[bool] = True  # another defence's losses, images or networks are in no accountant's ledger
    compatible: ClassVar[tuple[str, ...] | None] = ("vgg16", "ir152", "facenet64")

    epsilon: float = 8.0
    delta: float = 1e-5
    accountant: str = "prv"
    max_grad_norm: float = 1.0
    trained: str = "head"
    public: str | None = None

    def backbone(self, architecture: str) -> str | None:
        """The card that ``public`` names; none where everything is trained."""
        return (self.public or f"{architecture}+public") if self.trained == "head" else None

    def architecture(self, name: str, arguments: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The network with group norm, where everything is trained."""
        return (name if self.trained == "head" else f"{name}_gn"), dict(arguments)

    def check(self) -> None:
        """Raise where a setting makes no sense, or opacus is missing."""
        for name, value, known in (
            ("accountant", self.accountant, ACCOUNTANTS),
            ("trained", self.trained, TRAINED),
        ):
            if value not in known:
                raise MibenchError(
                    f"unknown defence.{name} {value!r}",
                    cure=f"choose one of {', '.join(known)}",
                )
        for name in ("epsilon", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise MibenchError(f"defence.{name} must be a positive number, got {getattr(self, name)}")
        if not 0 < self.delta < 1:
            raise MibenchError(f"defence.delta must lie between 0 and 1, got {self.delta}")
        if self.public is not None and self.trained == "all":
            raise MibenchError("defence.public belongs to defence.trained=head; with all, training starts from scratch")
        if importlib.util.find_spec("opacus") is None:
            raise MibenchError('the defence dp-sgd needs opacus, which is not installed: pip install "mibench[dp]"')

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """Load the public features, then find the noise."""
        if self.trained == "head":
            if task.initial is None:
                raise MibenchError("the weights of the public backbone were not handed over to the defence dp-sgd")
            start_features_from(network, task.initial, backbone=str(self.backbone(type(network).__name__.lower())))
        return PrivateHooks(self, network, task)
