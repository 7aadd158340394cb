"""How the priors of GMI and KEDMI are trained on public images.

Every draw comes from a stream named by step or epoch, so a resumed training equals an uninterrupted one bit for bit
(CPU, float32). The defaults are the published values; the shipped priors are smaller, see their cards.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.api import ImageSpec, MibenchError, PriorTrainingData, Recipe, TrainedWeights, TrainingContext
from mibench.attacks.losses import negative_log_realness
from mibench.rng import Streams, derive

from .networks import SIZE, Critic, Generator, MinibatchDiscriminator

DTYPES = {"float32": torch.float32, "float16": torch.float16}


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

    def check(self) -> None:
        """Raise when a value cannot be."""
        if self.storage not in DTYPES:
            raise MibenchError(f"storage={self.storage!r} is unknown; choose one of {', '.join(DTYPES)}")
        for name in ("steps", "critic_steps", "batch_size", "z_dim", "log_steps"):
            if getattr(self, name) < 1:
                raise MibenchError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if not all(0 <= share < 1 for share in (self.average, *self.betas)):
            raise MibenchError(f"train.average and train.betas must lie in [0, 1), got {self.average} and {self.betas}")
        for name in ("width", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise MibenchError(f"train.{name} must be positive and finite, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainGMI(TrainDCGAN):
    """WGAN-GP on public images (GMI's prior)."""

    architecture: ClassVar[str] = "gmi"
    needs: ClassVar[str] = "public"

    penalty: float = 10.0  # weight of the gradient penalty

    def run(self, data: Callable[[int], Tensor], workshop: TrainingContext) -> TrainedWeights:
        """Train on ``data(64)``, uint8 ``(N, 3, 64, 64)``."""
        self.check()
        if not 0 <= self.penalty < math.inf:
            raise MibenchError(f"train.penalty must be finite and not negative, got {self.penalty}")
        critic = _seeded(workshop, "discriminator", lambda: Critic(width=self.width))
        training = _Training(self, _pictures(data(SIZE), self), critic, _Wasserstein(self.penalty), workshop)
        training.finish()
        return training.trained({"z_dim": self.z_dim, "width": self.width})


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

    def run(self, data: PriorTrainingData, workshop: TrainingContext) -> TrainedWeights:
        """Train on ``data.public(64)`` and the victim's scores of them."""
        self.check()
        if not 0 <= self.entropy_weight < math.inf or min(self.kernels, self.dimensions) < 1:
            raise MibenchError(
                "train.entropy_weight must be finite and not negative, train.kernels and train.dimensions at least 1, "
                f"got {self.entropy_weight}, {self.kernels} and {self.dimensions}"
            )
        classes = data.victim.num_classes
        network = _seeded(
            workshop,
            "discriminator",
            lambda: MinibatchDiscriminator(
                num_classes=classes, width=self.width, kernels=self.kernels, dimensions=self.dimensions
            ),
        )
        pictures = _pictures(data.public(SIZE), self)
        labels = soft_labels(data, pictures, workshop)
        training = _Training(self, pictures, network, _InversionSpecific(labels, self.entropy_weight), workshop)
        training.finish()
        arguments = {
            "z_dim": self.z_dim,
            "width": self.width,
            "kernels": self.kernels,
            "dimensions": self.dimensions,
            "num_classes": classes,
        }
        return training.trained(arguments, queries_forward=len(pictures))


@torch.no_grad()
def soft_labels(data: PriorTrainingData, pictures: Tensor, workshop: TrainingContext) -> Tensor:
    """The victim's scores ``(N, K)``, float16 on the CPU, of all public images: each is shown once."""
    size, found = data.victim.image.size, []
    for start in range(0, len(pictures), 256):
        images = pictures[start : start + 256].to(workshop.device).float() / 255
        if size != SIZE:
            images = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        found.append(data.victim.scores(images).half().cpu())
        workshop.progress(0, 1, f"labelling {min(start + 256, len(pictures))} of {len(pictures)} public images")
    return torch.cat(found)


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
        with training.autocast():
            scores = critic(torch.cat([real[0], fake])).float()
        mix = torch.rand(count, 1, 1, 1, generator=training.stream("mix")).to(fake.device, non_blocking=True)
        between = (real[0] + mix * (fake - real[0])).requires_grad_()
        with training.autocast():
            at = critic(between).float()
        (slope,) = torch.autograd.grad(at.sum(), between, create_graph=True)
        steepness = slope.flatten(1).norm(dim=1)
        return {
            "loss_critic": scores[count:].mean() - scores[:count].mean(),
            "loss_penalty": self.penalty * (steepness - 1).square().mean(),
        }

    def generator_loss(self, training: _Training, real: list[Tensor], fake: Tensor) -> dict[str, Tensor]:
        with training.autocast():
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
        with training.autocast():  # three passes, since an output depends on its batch
            on_labelled, on_real, on_fake = (training.discriminator(x).logits.float() for x in (real[0], real[1], fake))
        return {
            "loss_labels": soft_cross_entropy(on_labelled, labels).mean(),
            "loss_real": 0.5 * neg_log_real(on_real).mean(),
            "loss_fake": 0.5 * functional.softplus(on_fake.logsumexp(dim=1)).mean(),
        }

    def generator_loss(self, training: _Training, real: list[Tensor], fake: Tensor) -> dict[str, Tensor]:
        with training.autocast():
            generated = training.discriminator(fake)
            with torch.no_grad():
                wanted = training.discriminator(real[2]).features
        return {
            "loss_features": (generated.features.float().mean(dim=0) - wanted.float().mean(dim=0)).abs().mean(),
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
        self, recipe: TrainDCGAN, pictures: Tensor, discriminator: nn.Module, game: _Game, workshop: TrainingContext
    ) -> None:
        self.recipe, self.workshop, self.game = recipe, workshop, game
        self.pictures = pictures.to(workshop.device)
        generator = _seeded(workshop, "generator", lambda: Generator(z_dim=recipe.z_dim, width=recipe.width))
        self.generator = generator.to(workshop.device)
        self.discriminator = discriminator.to(workshop.device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimiser = self._adam(self.generator)
        self.discriminator_optimiser = self._adam(self.discriminator)
        self.step = 0
        self.streams = Streams(workshop.seed, ("prior", recipe.architecture))
        self.orders: dict[int, tuple[int, Tensor]] = {}  # pass -> epoch and its permutation
        self.measured: dict[str, float] = {}

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self.recipe.learning_rate, betas=self.recipe.betas, fused=True)

    def autocast(self) -> torch.autocast:
        """Half precision for convolutions, where the training asked for it."""
        return torch.autocast(
            self.workshop.device.type, dtype=torch.bfloat16, enabled=self.workshop.precision == "bfloat16"
        )

    def stream(self, *names: str) -> torch.Generator:
        """Numbers of this step."""
        return self.streams.generator(*names, self.step)

    def finish(self) -> None:
        """Train to the last step, saving and logging on the way."""
        recipe, workshop = self.recipe, self.workshop
        saved = workshop.checkpoint.load()
        if saved is not None:
            self._restore(saved)
        saved_at = logged_at = moved_at = time.monotonic()
        rate, before = "", self.step
        terms: dict[str, Tensor] = {}
        while self.step < recipe.steps:
            terms |= self._advance()
            self.step += 1
            last, now = self.step == recipe.steps, time.monotonic()
            if self.step % recipe.log_steps == 0 or last:
                self.measured |= {name: round(float(term), 4) for name, term in terms.items()}
                each = (self.step - before) * recipe.batch_size / max(now - logged_at, 1e-9)
                rate = f"{each:.0f} images/s"
                workshop.log(event="train", step=self.step, images_per_second=round(each, 1), **self.measured)
                logged_at, before = now, self.step
            if last or now - moved_at >= 0.5:
                workshop.progress(self.step, recipe.steps, rate)
                moved_at = now
            if last or now - saved_at >= recipe.checkpoint_seconds:
                workshop.checkpoint.save(self._state())
                saved_at = time.monotonic()

    def _advance(self) -> dict[str, Tensor]:
        """One step of the discriminator and, after every ``critic_steps`` of them, one of the generator."""
        recipe = self.recipe
        rows = [self._rows(number) for number in range(self.game.passes)]
        device = self.workshop.device
        real = [self.pictures[chosen.to(device, non_blocking=True)].float() / 255 for chosen in rows]
        with torch.no_grad(), self.autocast():
            fake = self.generator(self._latents("latents")).float()
        terms = self.game.discriminator_loss(self, real, rows, fake)
        _descend(self.discriminator, self.discriminator_optimiser, terms)
        if (self.step + 1) % recipe.critic_steps == 0:
            self.discriminator.requires_grad_(False)
            with self.autocast():
                fake = self.generator(self._latents("fresh latents")).float()
            of_generator = self.game.generator_loss(self, real, fake)
            _descend(self.generator, self.generator_optimiser, of_generator)
            self.discriminator.requires_grad_(True)
            terms |= of_generator
            self._average()
        return {name: term.detach() for name, term in terms.items()}

    def _latents(self, name: str) -> Tensor:
        drawn = torch.randn(self.recipe.batch_size, self.recipe.z_dim, generator=self.stream(name))
        return drawn.to(self.workshop.device, non_blocking=True)

    def _rows(self, number: int) -> Tensor:
        """Which images this step takes in pass ``number`` (on the CPU): shuffled in each epoch, the rest dropped."""
        size = self.recipe.batch_size
        epoch, place = divmod(self.step, len(self.pictures) // size)
        if number not in self.orders or self.orders[number][0] != epoch:
            shuffle = self.streams.generator("order", number, epoch)
            self.orders[number] = epoch, torch.randperm(len(self.pictures), generator=shuffle)
        return self.orders[number][1][place * size : (place + 1) * size]

    @torch.no_grad()
    def _average(self) -> None:
        decay = self.recipe.average
        for old, new in zip(_tensors(self.averaged), _tensors(self.generator), strict=True):
            if new.is_floating_point() and decay:
                old.lerp_(new, 1 - min(decay, (1 + self.step) / (10 + self.step)))
            else:
                old.copy_(new)

    def trained(self, arguments: dict[str, Any], **measured: Any) -> TrainedWeights:
        """Generator and discriminator in the storage type."""
        storage = DTYPES[self.recipe.storage]
        weights = {
            f"{prefix}.{name}": tensor.detach().to("cpu", storage if tensor.is_floating_point() else None).clone()
            for prefix, network in (("G", self.averaged), ("D", self.discriminator))
            for name, tensor in network.state_dict().items()
        }
        return TrainedWeights(
            architecture=self.recipe.architecture,
            arguments=arguments,
            image=ImageSpec(size=SIZE),
            weights=weights,
            measured={"images_shown": self.step * self.recipe.batch_size, **self.measured, **measured},
        )

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "averaged": self.averaged,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }

    def _state(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"step": self.step, "measured": dict(self.measured), **parts}

    def _restore(self, saved: dict[str, Any]) -> None:
        self.step, self.measured = int(saved["step"]), dict(saved["measured"])
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])


def _descend(network: nn.Module, optimiser: torch.optim.Optimizer, terms: dict[str, Tensor]) -> None:
    optimiser.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimiser.step()


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _seeded(workshop: TrainingContext, name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """A network with initial weights that depend on the seed and the name only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(workshop.seed, "prior", "dcgan", name))
        return build()


def _pictures(pictures: Tensor, recipe: TrainDCGAN) -> Tensor:
    if pictures.dtype != torch.uint8 or tuple(pictures.shape[1:]) != (3, SIZE, SIZE):
        raise MibenchError(
            f"the prior trains on uint8 (N, 3, {SIZE}, {SIZE}), got {pictures.dtype} {tuple(pictures.shape)}"
        )
    if len(pictures) < recipe.batch_size:
        raise MibenchError(
            f"{len(pictures)} public images are fewer than train.batch_size={recipe.batch_size}; lower it"
        )
    return pictures
