"""Training of the StyleGAN2 prior on public images: non-saturating logistic loss, lazy R1, moving average of weights.

Follows the ADA release (arXiv:2006.06676) without augmentation, for public sets of tens of thousands of images, with
one difference that saves a fifth of the time: both networks' gradients are taken at the same point, so one batch of
fakes and one forward pass of the discriminator serve both (simultaneous instead of alternating updates; they converge
under R1, arXiv:1801.04406).

A batch is computed in shards, on a CPU side by side with a share of the threads each: the threads of one operation
wait for each other at every operation, which is most of the time on a busy machine; shards wait once a step.

Every draw comes from a stream named by step, shard or epoch, so a resumed training equals an uninterrupted one bit for
bit (CPU, float32, same number of threads in each shard).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.api import ImageSpec, MibenchError, Recipe, TrainedWeights, TrainingContext
from mibench.api.training import (
    LatestTerms,
    TrainingState,
    check_storage,
    initial_weights,
    precision_dtype,
    run_steps,
    stored_weights,
)
from mibench.attacks.losses import negative_log_realness
from mibench.rng import Streams, derive

from .discriminator import Discriminator
from .generator import Generator

GROUP = 4  # images among which the discriminator compares


@dataclass(frozen=True, kw_only=True)
class TrainStyleGAN2(Recipe):
    """Train a StyleGAN2 on public images. The defaults make a small 64-pixel prior that two CPU cores can train."""

    kind: ClassVar[str] = "prior"
    needs: ClassVar[str] = "public"
    cost_only: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds", "log_images"})

    images: int = 600_000  # real images shown in all; ours: about two hours on two idle CPU cores in bfloat16
    resolution: int = 64
    z_dim: int = 128  # ours: 512 in the release; enough for the procedural world
    w_dim: int = 128
    mapping_layers: int = 4  # ours: 2 in the release's "auto", 8 in its face models
    channel_base: int = 2048  # ours: 128, 128, 128, 64, 32 channels at 4 to 64 pixels, 1.1M parameters
    channel_max: int = 128
    discriminator_base: int = 1024  # ours: half as wide; it does 7 of 10 parts of the work when both are equal
    discriminator_max: int = 128
    batch_size: int = 16  # ours: 32 in the release; twice the steps matter more to a short training
    shards: int = 2  # ours: parts of a batch computed side by side; part of the result (groups of the discriminator)
    learning_rate: float = 0.0025  # release, below 1024 pixels
    beta2: float = 0.99  # release; beta1 is 0
    r1_gamma: float = 0.05  # release's heuristic, 0.0002 resolution^2 / batch
    r1_interval: int = 16  # release
    r1_batch: int = 8  # ours: half a batch estimates the penalty well enough
    ema_images: float = 10_000.0  # half-life in images, release
    ema_rampup: float = 0.05  # half-life at most this share of the images shown so far, release
    # ours: the grain of the camera, nothing that a style should decide. With the release's noise in every layer small
    # trainings paint eyes and mouths out of noise, where no latent reaches them
    noise_layers: int = 1  # the last convolutions that add noise
    style_mixing: float = 0.0  # share of images with two styles; ours: attacks use one style for all layers
    mirror: bool = True  # horizontal flips of the real images
    storage: str = "float16"  # of the weights handed back
    checkpoint_seconds: float = 300.0
    log_images: int = 3_200

    def run(self, data: Callable[[int], Tensor], context: TrainingContext) -> TrainedWeights:
        """Train on ``data(resolution)``, uint8 ``(N, 3, R, R)``, to the end; from the checkpoint when there is one."""
        self.check()
        public_images = data(self.resolution)
        expected = (3, self.resolution, self.resolution)
        if public_images.dtype != torch.uint8 or tuple(public_images.shape[1:]) != expected:
            raise MibenchError(
                f"the prior trains on uint8 (N, {expected}), got {public_images.dtype} {tuple(public_images.shape)}"
            )
        self.check(len(public_images))
        training = _Training(self, public_images, context)
        training.finish()
        return training.trained()

    def generator_arguments(self) -> dict[str, int]:
        """Keyword arguments of the generator."""
        return {
            "z_dim": self.z_dim,
            "w_dim": self.w_dim,
            "resolution": self.resolution,
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "mapping_layers": self.mapping_layers,
        }

    def discriminator_arguments(self) -> dict[str, int]:
        """Keyword arguments of the discriminator."""
        return {
            "resolution": self.resolution,
            "channel_base": self.discriminator_base,
            "channel_max": self.discriminator_max,
        }

    def arguments(self) -> dict[str, object]:
        """What builds the prior."""
        widths = {"discriminator_base": self.discriminator_base, "discriminator_max": self.discriminator_max}
        return {**self.generator_arguments(), **widths}

    def check(self, images: int | None = None) -> None:
        """Raise when a value cannot be, or there are fewer images than in a batch."""
        check_storage(self.storage)
        for name in (
            *("images", "z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max", "discriminator_base"),
            *("discriminator_max", "batch_size", "shards", "r1_interval", "log_images"),
        ):
            if getattr(self, name) < 1:
                raise MibenchError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise MibenchError(f"resolution={self.resolution} is not a power of two from 8 upwards")
        if not 0 < self.r1_batch <= self.batch_size:
            raise MibenchError(f"r1_batch={self.r1_batch} must lie between 1 and batch_size={self.batch_size}")
        for name, size in (("batch_size", self.batch_size), ("r1_batch", self.r1_batch)):
            part, rest = divmod(size, self.shards)
            if rest or (part > GROUP and part % GROUP):
                raise MibenchError(
                    f"{name}={size} in shards={self.shards} must leave multiples of {GROUP} or fewer each"
                )
        if images is not None and images < self.batch_size:
            raise MibenchError(
                f"{images} public images are fewer than batch_size={self.batch_size}",
                cure="lower it",
            )


@dataclass(frozen=True)
class _Draw:
    """One shard of a step: n real images, and what chance decides: n latents, noise, and n styles mixed in."""

    real: Tensor
    latents: Tensor
    noise: torch.Generator
    penalised: bool  # a step with the penalty
    other: Tensor | None = None
    mixed: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, num_ws): layers that take the other style


@dataclass(frozen=True)
class _Shard:
    """What one shard hands back: gradients of the generator's, then the discriminator's parameters; mean style (E,)."""

    gradients: list[Tensor]
    w_mean: Tensor
    losses: dict[str, Tensor]


class _Training:
    """The state of one training and its steps."""

    def __init__(self, recipe: TrainStyleGAN2, public_images: Tensor, context: TrainingContext) -> None:
        self.recipe = recipe
        self.context = context
        self.device = context.device
        self.dtype = precision_dtype(context)
        self.streams = Streams(context.seed, ("prior", "stylegan2"))
        self.public_images = public_images.to(self.device)
        generator, discriminator = initial_weights(
            self.streams,
            "initial",
            build=lambda: (
                Generator(**recipe.generator_arguments()),
                Discriminator(**recipe.discriminator_arguments()),
            ),
        )
        layers = generator.synthesis.layers()
        for layer in layers[: max(0, len(layers) - recipe.noise_layers)]:
            layer.silence()
        self.generator = generator.to(self.device)
        self.discriminator = discriminator.to(self.device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimiser = self._adam(self.generator, 1.0)
        # release: the penalty's extra steps are compensated in the step size and in the memory of Adam
        self.discriminator_optimiser = self._adam(self.discriminator, recipe.r1_interval / (recipe.r1_interval + 1))
        self.state = TrainingState(
            {"generator": self.generator, "discriminator": self.discriminator, "average": self.average},
            {"generator": self.generator_optimiser, "discriminator": self.discriminator_optimiser},
        )
        self.monitor = LatestTerms(
            context,
            self.state,
            steps=self.steps,
            batch_size=recipe.batch_size,
            log_steps=max(1, recipe.log_images // recipe.batch_size),
        )
        self.order: tuple[int, Tensor] | None = None  # epoch, permutation
        self.pool: ThreadPoolExecutor | None = None

    def _adam(self, network: nn.Module, ratio: float) -> torch.optim.Adam:
        return torch.optim.Adam(
            _trained(network),
            lr=self.recipe.learning_rate * ratio,
            betas=(0.0, self.recipe.beta2**ratio),
            eps=1e-8,
            fused=True,
        )

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return -(-self.recipe.images // self.recipe.batch_size)

    def finish(self) -> None:
        """Train to the last step."""
        threads = torch.get_num_threads()
        side_by_side = min(self.recipe.shards, threads) if self.device.type == "cpu" else 1
        if side_by_side == 1:
            self._run_steps()
            return
        torch.set_num_threads(threads // side_by_side)
        try:
            with ThreadPoolExecutor(side_by_side) as self.pool:
                self._run_steps()
        finally:
            self.pool = None
            torch.set_num_threads(threads)

    def _run_steps(self) -> None:
        run_steps(
            self.context,
            self.state,
            steps=self.steps,
            step=self._advance,
            monitor=self.monitor,
            checkpoint_seconds=self.recipe.checkpoint_seconds,
        )

    def trained(self) -> TrainedWeights:
        """The averaged generator and the discriminator, in the storage type."""
        recipe = self.recipe
        weights = stored_weights(self.average, recipe.storage, "G.")
        weights |= stored_weights(self.discriminator, recipe.storage, "D.")
        return TrainedWeights(
            architecture="stylegan2",
            arguments=recipe.arguments(),
            image=ImageSpec(size=recipe.resolution),
            weights=weights,
            measured={"images_shown": self.state.step * recipe.batch_size, **self.monitor.measured},
        )

    def _advance(self, step: int) -> dict[str, Tensor]:
        """One step of both networks; returns losses (detached, scalar)."""
        shards = self.recipe.shards
        draws = [self._draw(step, shard, real) for shard, real in enumerate(self._real(step).chunk(shards))]
        done = list(self.pool.map(self._shard, draws) if self.pool is not None else map(self._shard, draws))
        parameters = [*_trained(self.generator), *_trained(self.discriminator)]
        for parameter, *gradients in zip(parameters, *(shard.gradients for shard in done), strict=True):
            parameter.grad = torch.stack(gradients).mean(dim=0) if shards > 1 else gradients[0]
        self.generator.mapping.track(torch.stack([shard.w_mean for shard in done]))
        self.discriminator_optimiser.step()
        self.generator_optimiser.step()
        self._average(step)
        return {name: torch.stack([shard.losses[name] for shard in done]).mean() for name in done[0].losses}

    def _shard(self, draw: _Draw) -> _Shard:
        """Gradients of both networks from one shard of the batch. Runs in a thread of its own: it changes nothing."""
        recipe = self.recipe
        weights = _trained(self.discriminator)
        w = self.generator.mapping(draw.latents)
        ws = self.generator.mapping.broadcast(w, self.generator.num_ws)
        if draw.other is not None:
            ws = torch.where(draw.mixed[:, :, None], self.generator.mapping(draw.other)[:, None], ws)
        fake = self.generator.synthesis(ws, noise_mode="random", generator=draw.noise, dtype=self.dtype)

        # the discriminator sees a leaf, so that its graph and the generator's are walked apart
        seen = fake.detach().requires_grad_(True)
        fake_logits = self.discriminator(seen, dtype=self.dtype)
        generator_loss = negative_log_realness(fake_logits).mean()
        (direction,) = torch.autograd.grad(generator_loss, seen, retain_graph=True)
        fake_loss = functional.softplus(fake_logits).mean()
        from_fake = torch.autograd.grad(fake_loss, weights)
        real_loss = negative_log_realness(self.discriminator(draw.real, dtype=self.dtype)).mean()
        from_real = torch.autograd.grad(real_loss, weights)
        to_generator = torch.autograd.grad(fake, _trained(self.generator), direction)
        to_discriminator = torch._foreach_add(from_fake, from_real)
        losses = {"loss_generator": generator_loss.detach(), "loss_discriminator": (fake_loss + real_loss).detach()}
        if draw.penalised:
            penalty, from_penalty = self._penalty(draw.real[: recipe.r1_batch // recipe.shards])
            to_discriminator = torch._foreach_add(to_discriminator, from_penalty)
            losses["r1"] = penalty
        return _Shard([*to_generator, *to_discriminator], w.detach().mean(dim=0), losses)

    def _real(self, step: int) -> Tensor:
        """The real images of a step, float32 in [-1, 1], in an order shuffled anew in each epoch."""
        size = self.recipe.batch_size
        epoch, batch = divmod(step, len(self.public_images) // size)
        if self.order is None or self.order[0] != epoch:
            shuffle = self.streams.generator("order", epoch)
            self.order = epoch, torch.randperm(len(self.public_images), generator=shuffle)
        rows = self._sent(self.order[1][batch * size : (batch + 1) * size])
        real = self.public_images[rows].float() / 127.5 - 1
        if self.recipe.mirror:
            flip = torch.rand(size, generator=self.streams.generator("mirror", step)) < 0.5
            real = torch.where(self._sent(flip)[:, None, None, None], real.flip(3), real)
        return real

    def _sent(self, drawn: Tensor) -> Tensor:
        """What was drawn on the CPU, on the device; the host goes on meanwhile."""
        return drawn.to(self.device, non_blocking=True)

    def _draw(self, step: int, shard: int, real: Tensor) -> _Draw:
        """What chance decides in one shard of a step."""
        recipe, num_ws = self.recipe, self.generator.num_ws
        count, penalised = len(real), step % self.recipe.r1_interval == 0
        draws = self.streams.generator("latents", step, shard)
        noise = torch.Generator(self.device)
        noise.manual_seed(derive(self.streams.seed, *self.streams.names, "noise", step, shard))
        latents = self._sent(torch.randn(count, recipe.z_dim, generator=draws))
        if recipe.style_mixing == 0:
            return _Draw(real, latents, noise, penalised)
        other = self._sent(torch.randn(count, recipe.z_dim, generator=draws))
        crossover = torch.randint(1, num_ws, (count,), generator=draws)
        crossover[torch.rand(count, generator=draws) >= recipe.style_mixing] = num_ws
        mixed = torch.arange(num_ws)[None, :] >= crossover[:, None]
        return _Draw(real, latents, noise, penalised, other, self._sent(mixed))

    def _penalty(self, real: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The lazy R1 penalty in float32: the mean squared gradient norm, and gradients of the weighted penalty."""
        recipe = self.recipe
        real = real.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        penalty = slope.square().sum(dim=(1, 2, 3)).mean()
        gradients = torch.autograd.grad(
            penalty * (recipe.r1_gamma / 2 * recipe.r1_interval),
            _trained(self.discriminator),
            allow_unused=True,  # the last bias
            materialize_grads=True,
        )
        return penalty.detach(), gradients

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averaged generator towards the current one."""
        recipe = self.recipe
        shown = (step + 1) * recipe.batch_size
        half_life = min(recipe.ema_images, shown * recipe.ema_rampup)
        keep = 0.5 ** (recipe.batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)
        for target, source in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            target.copy_(source)


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
