"""How the priors of GMI and KEDMI are trained on public images.

Every draw comes from a stream named by step or epoch, so a resumed training equals an uninterrupted one bit for bit
(CPU, float32). The defaults are the published values; the shipped priors are smaller, see their cards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.api import ImageSpec, MibenchError, PriorTrainingData, Recipe, TrainedWeights, TrainingContext
from mibench.api.training import (
    LatestTerms,
    TrainingState,
    autocast,
    check_storage,
    initial_weights,
    run_steps,
    stored_weights,
)
from mibench.attacks.losses import negative_log_realness
from mibench.rng import Streams

from .networks import SIZE, Critic, Generator, MinibatchDiscriminator


@dataclass(frozen=True, kw_only=True)
class TrainDCGAN(Recipe):
    """What both trainings share."""

    kind: ClassVar[str] = "prior"
    architecture: ClassVar[str]
    cost_only: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds", "log_steps"})

    steps: int = 56_250  # of the discriminator: 120 epochs of 30,000 images, KEDMI's and LOMMA's configuration
    critic_steps: int = 5  # n_critic: the generator takes a step after so many of the discriminator
    batch_size: int = 64
    learning_rate: float = 2e-4  # Adam, both networks
    betas: tuple[float, float] = (0.5, 0.999)
    z_dim: int = 100
    width: float = 1.0  # of all channels; 1 is the published network
    average: float = 0.0  # ours: decay per step of a moving average of the generator; 0, as published: the last one
    storage: str = "float16"  # of the weights handed back
    checkpoint_seconds: float = 300.0
    log_steps: int = 200

    def check(self, images: int | None = None) -> None:
        """Raise when a value cannot be, or there are fewer images than in a batch."""
        check_storage(self.storage)
        for name in ("steps", "critic_steps", "batch_size", "z_dim", "log_steps"):
            if getattr(self, name) < 1:
                raise MibenchError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if not all(0 <= share < 1 for share in (self.average, *self.betas)):
            raise MibenchError(f"train.average and train.betas must lie in [0, 1), got {self.average} and {self.betas}")
        for name in ("width", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise MibenchError(f"train.{name} must be positive and finite, got {getattr(self, name)}")
        if images is not None and images < self.batch_size:
            raise MibenchError(
                f"{images} public images are fewer than train.batch_size={self.batch_size}",
                cure="lower it",
            )

    def arguments(self) -> dict[str, object]:
        """What builds the networks."""
        return {"z_dim": self.z_dim, "width": self.width}


@dataclass(frozen=True, kw_only=True)
class TrainGMI(TrainDCGAN):
    """WGAN-GP on public images (GMI's prior)."""

    architecture: ClassVar[str] = "gmi"
    needs: ClassVar[str] = "public"

    penalty: float = 10.0  # weight of the gradient penalty

    def check(self, images: int | None = None) -> None:
        super().check(images)
        if not 0 <= self.penalty < math.inf:
            raise MibenchError(f"train.penalty must be finite and not negative, got {self.penalty}")

    def run(self, data: Callable[[int], Tensor], context: TrainingContext) -> TrainedWeights:
        """Train on ``data(64)``, uint8 ``(N, 3, 64, 64)``."""
        self.check()
        critic = initial_weights(_seeds(context), "discriminator", build=lambda: Critic(width=self.width))
        training = _Training(self, _checked(data(SIZE), self), critic, _Wasserstein(self.penalty), context)
        training.finish()
        return training.trained(self.arguments())


@dataclass(frozen=True, kw_only=True)
class TrainKEDMI(TrainDCGAN):
    """KEDMI's inversion-specific GAN: the discriminator learns the target's soft labels of public images (section 3.2).

    The target is shown every public image once, in eval mode; the released code shows it each image in every epoch and
    in train mode, which makes the labels depend on the batch.
    """

    architecture: ClassVar[str] = "kedmi"
    needs: ClassVar[str] = "public+victim"

    entropy_weight: float = 1e-4  # of the entropy of the generated images' labels, summed over the batch
    kernels: int = 64  # of the minibatch discrimination
    dimensions: int = 50

    def check(self, images: int | None = None) -> None:
        super().check(images)
        if not 0 <= self.entropy_weight < math.inf or min(self.kernels, self.dimensions) < 1:
            raise MibenchError(
                "train.entropy_weight must be finite and not negative, train.kernels and train.dimensions at least 1, "
                f"got {self.entropy_weight}, {self.kernels} and {self.dimensions}"
            )

    def arguments(self) -> dict[str, object]:
        return {**super().arguments(), "kernels": self.kernels, "dimensions": self.dimensions}

    def run(self, data: PriorTrainingData, context: TrainingContext) -> TrainedWeights:
        """Train on ``data.public(64)`` and the victim's scores of them."""
        self.check()
        classes = data.victim.num_classes
        network = initial_weights(
            _seeds(context),
            "discriminator",
            build=lambda: MinibatchDiscriminator(
                num_classes=classes, width=self.width, kernels=self.kernels, dimensions=self.dimensions
            ),
        )
        public_images = _checked(data.public(SIZE), self)
        labels = soft_labels(data, public_images, context)
        training = _Training(self, public_images, network, _InversionSpecific(labels, self.entropy_weight), context)
        training.finish()
        return training.trained({**self.arguments(), "num_classes": classes}, queries_forward=len(public_images))


@torch.no_grad()
def soft_labels(data: PriorTrainingData, public_images: Tensor, context: TrainingContext) -> Tensor:
    """The victim's scores ``(N, K)``, float16 on the CPU, of all public images: each is shown once."""
    size, scores = data.victim.image.size, []
    for start in range(0, len(public_images), 256):
        images = public_images[start : start + 256].to(context.device).float() / 255
        if size != SIZE:
            images = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        scores.append(data.victim.scores(images).half().cpu())
        context.progress(
            0, 1, f"labelling {min(start + 256, len(public_images))} of {len(public_images)} public images"
        )
    return torch.cat(scores)


class _Game(Protocol):
    """What distinguishes the two trainings: how many real batches a step takes, and both losses."""

    passes: int

    def discriminator_loss(
        self, training: _Training, real: list[Tensor], rows: list[Tensor], fake: Tensor
    ) -> dict[str, Tensor]:
        """Terms that sum to the discriminator's loss."""

    def generator_loss(self, training: _Training, real: list[Tensor], fake: Tensor) -> dict[str, Tensor]:
        """Terms that sum to the generator's loss."""


class _Wasserstein:
    """GMI: ``-(E D(x) - E D(G(z))) + 10 E (|grad D(x')| - 1)^2`` against ``-E D(G(z))``."""

    passes = 1

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def discriminator_loss(
        self, training: _Training, real: list[Tensor], rows: list[Tensor], fake: Tensor
    ) -> dict[str, Tensor]:
        critic, count = training.discriminator, len(fake)
        with autocast(training.context):
            scores = critic(torch.cat([real[0], fake])).float()
        mix = torch.rand(count, 1, 1, 1, generator=training.stream("mix")).to(fake.device, non_blocking=True)
        between = (real[0] + mix * (fake - real[0])).requires_grad_()
        with autocast(training.context):
            at = critic(between).float()
        (slope,) = torch.autograd.grad(at.sum(), between, create_graph=True)
        steepness = slope.flatten(1).norm(dim=1)
        return {
            "loss_critic": scores[count:].mean() - scores[:count].mean(),
            "loss_penalty": self.penalty * (steepness - 1).square().mean(),
        }

    def generator_loss(self, training: _Training, real: list[Tensor], fake: Tensor) -> dict[str, Tensor]:
        with autocast(training.context):
            return {"loss_generator": -training.discriminator(fake).float().mean()}


class _InversionSpecific:
    """KEDMI: the target's labels, real against generated (logit ``lse``), feature matching and entropy."""

    passes = 3  # x with labels, u1 for the discriminator, u2 for the generator: shuffled independently

    def __init__(self, labels: Tensor, entropy_weight: float) -> None:
        self.labels = labels
        self.entropy_weight = entropy_weight

    def discriminator_loss(
        self, training: _Training, real: list[Tensor], rows: list[Tensor], fake: Tensor
    ) -> dict[str, Tensor]:
        labels = self.labels[rows[0]].to(fake.device, non_blocking=True).float()
        with autocast(training.context):  # three passes, since an output depends on its batch
            on_labelled, on_real, on_fake = (training.discriminator(x).logits.float() for x in (real[0], real[1], fake))
        return {
            "loss_labels": soft_cross_entropy(on_labelled, labels).mean(),
            "loss_real": 0.5 * neg_log_real(on_real).mean(),
            "loss_fake": 0.5 * functional.softplus(on_fake.logsumexp(dim=1)).mean(),
        }

    def generator_loss(self, training: _Training, real: list[Tensor], fake: Tensor) -> dict[str, Tensor]:
        with autocast(training.context):
            generated = training.discriminator(fake)
            with torch.no_grad():
                expected = training.discriminator(real[2]).features
        return {
            "loss_features": (generated.features.float().mean(dim=0) - expected.float().mean(dim=0)).abs().mean(),
            "loss_entropy": self.entropy_weight * entropy(generated.logits.float()).sum(),
        }


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-sum_k p_k log softmax(o)_k``: logits ``(N, K)`` and probabilities ``(N, K)`` to ``(N,)``."""
    return -(labels * logits.log_softmax(dim=1)).sum(dim=1)


def neg_log_real(logits: Tensor) -> Tensor:
    """``-log D`` with ``D = Z / (Z + 1)``, ``Z = sum_k exp(o_k)``: class logits ``(N, K)`` to ``(N,)``."""
    return negative_log_realness(logits.logsumexp(dim=1))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of ``softmax(o)`` in nats, ``(N, K)`` to ``(N,)``."""
    logs = logits.log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1)


class _Training:
    """The state of one training and its steps."""

    def __init__(
        self, recipe: TrainDCGAN, public_images: Tensor, discriminator: nn.Module, game: _Game, context: TrainingContext
    ) -> None:
        self.recipe, self.context, self.game = recipe, context, game
        self.public_images = public_images.to(context.device)
        generator = initial_weights(
            _seeds(context), "generator", build=lambda: Generator(z_dim=recipe.z_dim, width=recipe.width)
        )
        self.generator = generator.to(context.device)
        self.discriminator = discriminator.to(context.device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimiser = self._adam(self.generator)
        self.discriminator_optimiser = self._adam(self.discriminator)
        self.streams = Streams(context.seed, ("prior", recipe.architecture))
        self.orders: dict[int, tuple[int, Tensor]] = {}  # pass -> epoch and its permutation
        self.state = TrainingState(
            {"generator": self.generator, "discriminator": self.discriminator, "averaged": self.averaged},
            {"generator": self.generator_optimiser, "discriminator": self.discriminator_optimiser},
        )
        self.monitor = LatestTerms(
            context, self.state, steps=recipe.steps, batch_size=recipe.batch_size, log_steps=recipe.log_steps
        )

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self.recipe.learning_rate, betas=self.recipe.betas, fused=True)

    def stream(self, *names: str) -> torch.Generator:
        """Numbers of the running step."""
        return self.streams.generator(*names, self.state.step)

    def finish(self) -> None:
        """Train to the last step."""
        run_steps(
            self.context,
            self.state,
            steps=self.recipe.steps,
            step=self._advance,
            monitor=self.monitor,
            checkpoint_seconds=self.recipe.checkpoint_seconds,
        )

    def _advance(self, step: int) -> dict[str, Tensor]:
        """One step of the discriminator and, after every ``critic_steps`` of them, one of the generator."""
        recipe = self.recipe
        rows = [self._rows(step, number) for number in range(self.game.passes)]
        device = self.context.device
        real = [self.public_images[indices.to(device, non_blocking=True)].float() / 255 for indices in rows]
        with torch.no_grad(), autocast(self.context):
            fake = self.generator(self._latents("latents")).float()
        terms = self.game.discriminator_loss(self, real, rows, fake)
        _descend(self.discriminator, self.discriminator_optimiser, terms)
        if (step + 1) % recipe.critic_steps == 0:
            self.discriminator.requires_grad_(False)
            with autocast(self.context):
                fake = self.generator(self._latents("fresh latents")).float()
            of_generator = self.game.generator_loss(self, real, fake)
            _descend(self.generator, self.generator_optimiser, of_generator)
            self.discriminator.requires_grad_(True)
            terms |= of_generator
            self._average(step)
        return {name: term.detach() for name, term in terms.items()}

    def _latents(self, name: str) -> Tensor:
        drawn = torch.randn(self.recipe.batch_size, self.recipe.z_dim, generator=self.stream(name))
        return drawn.to(self.context.device, non_blocking=True)

    def _rows(self, step: int, number: int) -> Tensor:
        """Which images a step takes in pass ``number`` (on the CPU): shuffled in each epoch, the rest dropped."""
        size = self.recipe.batch_size
        epoch, batch = divmod(step, len(self.public_images) // size)
        if number not in self.orders or self.orders[number][0] != epoch:
            shuffle = self.streams.generator("order", number, epoch)
            self.orders[number] = epoch, torch.randperm(len(self.public_images), generator=shuffle)
        return self.orders[number][1][batch * size : (batch + 1) * size]

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = self.recipe.average
        for old, new in zip(_tensors(self.averaged), _tensors(self.generator), strict=True):
            if new.is_floating_point() and decay:
                old.lerp_(new, 1 - min(decay, (1 + step) / (10 + step)))
            else:
                old.copy_(new)

    def trained(self, arguments: Mapping[str, object], **measured: int) -> TrainedWeights:
        """Generator and discriminator in the storage type."""
        weights = stored_weights(self.averaged, self.recipe.storage, "G.")
        weights |= stored_weights(self.discriminator, self.recipe.storage, "D.")
        return TrainedWeights(
            architecture=self.recipe.architecture,
            arguments=arguments,
            image=ImageSpec(size=SIZE),
            weights=weights,
            measured={"images_shown": self.state.step * self.recipe.batch_size, **self.monitor.measured, **measured},
        )


def _descend(network: nn.Module, optimiser: torch.optim.Optimizer, terms: dict[str, Tensor]) -> None:
    optimiser.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimiser.step()


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _seeds(context: TrainingContext) -> Streams:
    """Of initial weights: those of a generator are the same for both trainings."""
    return Streams(context.seed, ("prior", "dcgan"))


def _checked(public_images: Tensor, recipe: TrainDCGAN) -> Tensor:
    if public_images.dtype != torch.uint8 or tuple(public_images.shape[1:]) != (3, SIZE, SIZE):
        raise MibenchError(
            f"the prior trains on uint8 (N, 3, {SIZE}, {SIZE}), got {public_images.dtype} {tuple(public_images.shape)}"
        )
    recipe.check(len(public_images))
    return public_images
