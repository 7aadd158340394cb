"""Training of the StyleGAN2 prior on public images: non-saturating logistic loss, lazy R1, moving average of weights.

Follows the ADA release (arXiv:2006.06676) without augmentation, for public sets of tens of thousands of images, with
one difference that saves a fifth of the time: both networks' gradients are taken at the same point, so one batch of
fakes and one forward pass of the discriminator serve both (simultaneous instead of alternating updates; they converge
under R1, arXiv:1801.04406).

Every draw comes from a stream named by step or epoch, so a resumed training equals an uninterrupted one bit for bit
(CPU, float32, same number of threads).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.api import ImageSpec, MibenchError, Recipe, Trained, Workshop
from mibench.rng import Streams, derive

from .stylegan2_discriminator import Discriminator
from .stylegan2_generator import Generator

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainStyleGAN2(Recipe):
    """Train a StyleGAN2 on public images. The defaults make a small 64-pixel prior that two CPU cores can train."""

    kind: ClassVar[str] = "prior"
    wants: ClassVar[str] = "public"

    images: int = 1_500_000  # real images shown in all; ours: faces are sharp, two CPU cores need some hours
    resolution: int = 64
    z_dim: int = 128  # ours: 512 in the release; enough for the procedural world
    w_dim: int = 128
    mapping_layers: int = 4  # ours: 2 in the release's "auto", 8 in its face models
    channel_base: int = 2048  # ours: 128, 128, 128, 64, 32 channels at 4 to 64 pixels, 1.1M parameters
    channel_max: int = 128
    discriminator_base: int = 1024  # ours: half as wide; it does 7 of 10 parts of the work when both are equal
    discriminator_max: int = 128
    batch_size: int = 32  # release, 64 pixels
    learning_rate: float = 0.0025  # release, below 1024 pixels
    beta2: float = 0.99  # release; beta1 is 0
    r1_gamma: float = 0.05  # release's heuristic 0.0002 resolution^2 / batch gives 0.026; twice that is calmer here
    r1_interval: int = 16  # release
    r1_batch: int = 16  # ours: half a batch estimates the penalty well enough
    ema_images: float = 10_000.0  # half-life in images, release for a batch of 32
    ema_rampup: float = 0.05  # half-life at most this share of the images shown so far, release
    style_mixing: float = 0.0  # share of images with two styles; ours: attacks use one style for all layers
    mirror: bool = True  # horizontal flips of the real images
    storage: str = "float16"  # of the weights handed back
    checkpoint_seconds: float = 300.0
    log_images: int = 3_200

    def run(self, data: Callable[[int], Tensor], workshop: Workshop) -> Trained:
        """Train on ``data(resolution)``, uint8 ``(N, 3, R, R)``, to the end; from the checkpoint when there is one."""
        self._check()
        pictures = data(self.resolution)
        expected = (3, self.resolution, self.resolution)
        if pictures.dtype != torch.uint8 or tuple(pictures.shape[1:]) != expected:
            raise MibenchError(
                f"the prior trains on uint8 (N, {expected}), got {pictures.dtype} {tuple(pictures.shape)}"
            )
        if len(pictures) < self.batch_size:
            raise MibenchError(f"{len(pictures)} public images are fewer than batch_size={self.batch_size}; lower it")
        training = _Training(self, pictures, workshop)
        training.finish()
        return training.trained()

    def generator_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the generator."""
        return {
            "z_dim": self.z_dim,
            "w_dim": self.w_dim,
            "resolution": self.resolution,
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "mapping_layers": self.mapping_layers,
        }

    def discriminator_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the discriminator."""
        return {
            "resolution": self.resolution,
            "channel_base": self.discriminator_base,
            "channel_max": self.discriminator_max,
        }

    def _check(self) -> None:
        if self.storage not in DTYPES:
            raise MibenchError(f"storage={self.storage!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise MibenchError(f"resolution={self.resolution} is not a power of two from 8 upwards")
        if not 0 < self.r1_batch <= self.batch_size:
            raise MibenchError(f"r1_batch={self.r1_batch} must lie between 1 and batch_size={self.batch_size}")


class _Training:
    """The state of one training and its steps."""

    def __init__(self, recipe: TrainStyleGAN2, pictures: Tensor, workshop: Workshop) -> None:
        self.recipe = recipe
        self.workshop = workshop
        self.device = workshop.device
        self.dtype = DTYPES[workshop.precision]
        self.streams = Streams(workshop.seed, ("prior", "stylegan2"))
        self.pictures = pictures.to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(workshop.seed, "prior", "stylegan2", "initial"))
            generator = Generator(**recipe.generator_arguments())
            discriminator = Discriminator(**recipe.discriminator_arguments())
        self.generator = generator.to(self.device)
        self.discriminator = discriminator.to(self.device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimiser = self._adam(self.generator, 1.0)
        # release: the penalty's extra steps are compensated in the step size and in the memory of Adam
        self.discriminator_optimiser = self._adam(self.discriminator, recipe.r1_interval / (recipe.r1_interval + 1))
        self.step = 0
        self.last_penalty = torch.zeros([])
        self.measured: dict[str, float] = {}

    def _adam(self, network: nn.Module, ratio: float) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(),
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
        """Train to the last step, saving and logging on the way."""
        recipe, workshop = self.recipe, self.workshop
        saved = workshop.checkpoint.load()
        if saved is not None:
            self._restore(saved)
        saved_at = logged_at = moved_at = time.monotonic()
        log_steps = max(1, recipe.log_images // recipe.batch_size)
        shown_before = self.step * recipe.batch_size
        rate = 0.0
        while self.step < self.steps:
            losses = self._advance()
            self.step += 1
            last = self.step == self.steps
            shown = self.step * recipe.batch_size
            now = time.monotonic()
            if self.step % log_steps == 0 or last:
                self.measured = {name: round(float(loss), 4) for name, loss in losses.items()}
                rate = (shown - shown_before) / (now - logged_at)
                workshop.log(event="train", images=shown, images_per_second=round(rate, 1), **self.measured)
                logged_at, shown_before = now, shown
            if last or now - moved_at >= 0.5:
                workshop.progress(shown, self.steps * recipe.batch_size, f"{rate:.0f} images/s" if rate else "")
                moved_at = now
            if last or now - saved_at >= recipe.checkpoint_seconds:
                workshop.checkpoint.save(self._state())
                saved_at = time.monotonic()

    def trained(self) -> Trained:
        """The averaged generator and the discriminator, in the storage type."""
        recipe = self.recipe
        storage = DTYPES[recipe.storage]
        networks = {"G": self.average, "D": self.discriminator}
        weights = {
            f"{prefix}.{name}": tensor.detach().to("cpu", storage).contiguous().clone()
            for prefix, network in networks.items()
            for name, tensor in network.state_dict().items()
        }
        arguments = recipe.generator_arguments() | {
            "discriminator_base": recipe.discriminator_base,
            "discriminator_max": recipe.discriminator_max,
        }
        return Trained(
            architecture="stylegan2",
            arguments=arguments,
            image=ImageSpec(size=recipe.resolution),
            weights=weights,
            measured={"images_shown": self.step * recipe.batch_size, **self.measured},
        )

    def _advance(self) -> dict[str, Tensor]:
        """One step of both networks; returns losses (detached, scalar)."""
        recipe = self.recipe
        real = self._real()
        fake = self._fake()
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        self.generator_optimiser.zero_grad(set_to_none=True)

        # the discriminator sees a leaf, so that its graph and the generator's are walked apart
        seen = fake.detach().requires_grad_(True)
        fake_logits = self.discriminator(seen, dtype=self.dtype)
        generator_loss = functional.softplus(-fake_logits).mean()
        (direction,) = torch.autograd.grad(generator_loss, seen, retain_graph=True)
        weights = list(self.discriminator.parameters())
        fake_loss = functional.softplus(fake_logits).mean()
        fake_loss.backward(inputs=weights)
        real_loss = functional.softplus(-self.discriminator(real, dtype=self.dtype)).mean()
        real_loss.backward()
        fake.backward(direction)
        losses = {"loss_generator": generator_loss, "loss_discriminator": fake_loss + real_loss}
        if self.step % recipe.r1_interval == 0:
            self.last_penalty = self._penalise(real[: recipe.r1_batch])
        losses["r1"] = self.last_penalty
        self.discriminator_optimiser.step()
        self.generator_optimiser.step()
        self._average()
        return {name: loss.detach() for name, loss in losses.items()}

    def _real(self) -> Tensor:
        """The real images of this step, float32 in [-1, 1], in an order shuffled anew in each epoch."""
        size = self.recipe.batch_size
        epoch, place = divmod(self.step, len(self.pictures) // size)
        order = torch.randperm(len(self.pictures), generator=self.streams.generator("order", epoch))
        chosen = order[place * size : (place + 1) * size].to(self.device)
        real = self.pictures[chosen].float() / 127.5 - 1
        if self.recipe.mirror:
            flip = torch.rand(size, generator=self.streams.generator("mirror", self.step)) < 0.5
            real = torch.where(flip.to(self.device)[:, None, None, None], real.flip(3), real)
        return real

    def _fake(self) -> Tensor:
        """Generated images of this step, with gradients to the generator."""
        recipe = self.recipe
        draws = self.streams.generator("latents", self.step)
        z = torch.randn(recipe.batch_size, recipe.z_dim, generator=draws).to(self.device)
        w = self.generator.mapping(z)
        self.generator.mapping.track(w)
        ws = self.generator.mapping.broadcast(w, self.generator.num_ws)
        if recipe.style_mixing > 0:
            other = self.generator.mapping(torch.randn(z.shape, generator=draws).to(self.device))
            crossover = torch.randint(1, self.generator.num_ws, (recipe.batch_size,), generator=draws)
            crossover[torch.rand(recipe.batch_size, generator=draws) >= recipe.style_mixing] = self.generator.num_ws
            layer = torch.arange(self.generator.num_ws)
            mixed = (layer[None, :] >= crossover[:, None]).to(self.device)
            ws = torch.where(mixed[:, :, None], other[:, None], ws)
        noise = torch.Generator(self.device).manual_seed(
            derive(self.streams.seed, *self.streams.names, "noise", self.step)
        )
        images: Tensor = self.generator.synthesis(ws, noise_mode="random", generator=noise, dtype=self.dtype)
        return images

    def _penalise(self, real: Tensor) -> Tensor:
        """Add the gradient of the lazy R1 penalty, in float32; returns the mean squared gradient norm."""
        recipe = self.recipe
        real = real.detach().requires_grad_(True)
        logits = self.discriminator(real)
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = slope.square().sum(dim=(1, 2, 3)).mean()
        (penalty * (recipe.r1_gamma / 2 * recipe.r1_interval)).backward(inputs=list(self.discriminator.parameters()))
        return penalty.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged generator towards the current one."""
        recipe = self.recipe
        shown = (self.step + 1) * recipe.batch_size
        half_life = min(recipe.ema_images, shown * recipe.ema_rampup)
        keep = 0.5 ** (recipe.batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)
        for target, source in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            target.copy_(source)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "generator_optimiser": _moments(self.generator_optimiser),
            "discriminator_optimiser": _moments(self.discriminator_optimiser),
            "r1": float(self.last_penalty),
            "measured": dict(self.measured),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.load_state_dict(state["average"])
        _restore_moments(self.generator_optimiser, state["generator_optimiser"])
        _restore_moments(self.discriminator_optimiser, state["discriminator_optimiser"])
        self.last_penalty = torch.tensor(float(state["r1"]))
        self.measured = dict(state["measured"])


def _moments(optimiser: torch.optim.Adam) -> list[dict[str, Tensor]]:
    """Adam's state per parameter, in the order of the parameters."""
    state = optimiser.state_dict()["state"]
    return [state[index] for index in sorted(state)]


def _restore_moments(optimiser: torch.optim.Adam, moments: list[dict[str, Tensor]]) -> None:
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": dict(enumerate(moments)), "param_groups": groups})
