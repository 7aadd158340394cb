"""How PLG-MI's conditional GAN is trained: on public images pseudo-labelled by the target, and through the target.

Every draw comes from a stream named by step or epoch, so a resumed training equals an uninterrupted one bit for bit
(CPU, float32). The defaults are the published values.

Legend: B images of a batch, K classes, n labelled images of each class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Access, ImageSpec, MibenchError, PriorTrainingData, Recipe, TrainedWeights, TrainingContext
from mibench.api.training import (
    LatestTerms,
    TrainingState,
    autocast,
    check_storage,
    initial_weights,
    run_steps,
    stored_weights,
)
from mibench.attacks.jittered_views import apply_jittered_views, draw_jittered_views
from mibench.attacks.losses import max_margin
from mibench.rng import Streams

from .networks import SIZE, Discriminator, Generator, channels
from .pseudo_labels import at_size, top_images

_DEQUANTISATION = 1 / 256  # released: noise on real images, evenly drawn from [0, 1/256]


@dataclass(frozen=True, kw_only=True)
class TrainPLGMI(Recipe):
    """A conditional GAN with hinge losses; its generator has to convince the target of the class it was given, too."""

    kind: ClassVar[str] = "prior"
    architecture: ClassVar[str] = "plgmi"
    needs: ClassVar[str] = "public+victim"
    access: ClassVar[Access] = Access.GRADIENTS  # the generator learns through the target
    cost_only: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds", "log_steps"})

    top_n: int = 30  # images of each class: those that the target is surest of
    steps: int = 30_000  # of the generator
    critic_steps: int = 5  # of the discriminator after each step of the generator
    batch_size: int = 64
    learning_rate: float = 2e-4  # Adam, both networks
    betas: tuple[float, float] = (0.0, 0.9)
    identity_weight: float = 0.2  # alpha, of the target's max-margin loss
    jitter: float = 0.5  # probability that a view for the target changes brightness and contrast
    z_dim: int = 128
    width: float = 1.0  # of all channels; 1 is the published network
    storage: str = "float16"  # of the weights handed back
    checkpoint_seconds: float = 300.0
    log_steps: int = 200

    def check(self, images: int | None = None) -> None:
        """Raise when a value cannot be, or there are fewer images than a class is to have."""
        check_storage(self.storage)
        for name in ("top_n", "steps", "critic_steps", "batch_size", "z_dim", "log_steps"):
            if getattr(self, name) < 1:
                raise MibenchError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"train.betas must lie in [0, 1), got {self.betas}")
        for name in ("width", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise MibenchError(f"train.{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.identity_weight < math.inf or not 0 <= self.jitter <= 1:
            raise MibenchError(
                "train.identity_weight must be finite and not negative, train.jitter lie in [0, 1], got "
                f"{self.identity_weight} and {self.jitter}"
            )
        if images is not None and images < self.top_n:
            raise MibenchError(f"{images} public images are fewer than train.top_n={self.top_n}", cure="lower it")

    def arguments(self) -> dict[str, object]:
        """What builds the generator."""
        return {"z_dim": self.z_dim, "width": self.width}

    def run(self, data: PriorTrainingData, context: TrainingContext) -> TrainedWeights:
        """Label ``data.public(64)`` by the victim, then train."""
        self.check()
        public_images = data.public(SIZE)
        if public_images.dtype != torch.uint8 or tuple(public_images.shape[1:]) != (3, SIZE, SIZE):
            raise MibenchError(
                f"the prior trains on uint8 (N, 3, {SIZE}, {SIZE}), got {public_images.dtype} "
                f"{tuple(public_images.shape)}"
            )
        self.check(len(public_images))
        classes = data.victim.num_classes
        if classes * self.top_n < self.batch_size:
            raise MibenchError(
                f"{classes} classes of train.top_n={self.top_n} images are fewer than train.batch_size="
                f"{self.batch_size}",
                cure="lower it",
            )
        rows = top_images(data, public_images, self.top_n, context)
        training = _Training(self, public_images, rows, data, context)
        training.finish()
        shown = self.steps * self.batch_size
        return TrainedWeights(
            architecture=self.architecture,
            arguments={**self.arguments(), "num_classes": classes},
            image=ImageSpec(size=SIZE),
            weights=stored_weights(training.generator, self.storage, "G."),
            measured={
                "images_shown": shown * self.critic_steps,
                **training.monitor.measured,
                "labelled_images": int(rows.unique().numel()),  # different ones: some are among those of many classes
                "queries_forward": len(public_images) + shown,
                "queries_backward": shown,
            },
        )


class _Training:
    """The state of one training and its steps."""

    def __init__(
        self, recipe: TrainPLGMI, public_images: Tensor, rows: Tensor, data: PriorTrainingData, context: TrainingContext
    ) -> None:
        self.recipe, self.context, self.victim = recipe, context, data.victim
        self.public_images = public_images.to(context.device)
        self.rows = rows.flatten()  # (K n,), with their classes
        self.classes = torch.arange(len(rows)).repeat_interleave(recipe.top_n)
        self.streams = Streams(context.seed, ("prior", recipe.architecture))
        size = {"num_classes": len(rows), "features": channels(recipe.width)}
        self.generator = initial_weights(
            self.streams, "generator", build=lambda: Generator(z_dim=recipe.z_dim, **size)
        ).to(context.device)
        self.discriminator = initial_weights(self.streams, "discriminator", build=lambda: Discriminator(**size)).to(
            context.device
        )
        self.generator_optimiser = self._adam(self.generator)
        self.discriminator_optimiser = self._adam(self.discriminator)
        self.order: tuple[int, Tensor] | None = None  # epoch and its permutation
        self.state = TrainingState(
            {"generator": self.generator, "discriminator": self.discriminator},
            {"generator": self.generator_optimiser, "discriminator": self.discriminator_optimiser},
        )
        self.monitor = LatestTerms(
            context,
            self.state,
            steps=recipe.steps,
            batch_size=recipe.batch_size * recipe.critic_steps,
            log_steps=recipe.log_steps,
        )

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
        """One step of the generator, then ``critic_steps`` of the discriminator, as released."""
        fake, y = self._generated("latents", step)
        of_generator = self._generator_loss(fake, y, step)
        self._descend(self.generator_optimiser, of_generator)
        terms = of_generator
        for turn in range(self.recipe.critic_steps):
            real, classes = self._labelled(step * self.recipe.critic_steps + turn)
            with torch.no_grad():
                fake, y = self._generated("fresh latents", step, turn)
            with autocast(self.context):
                on_real = self.discriminator(real, classes).float()
                on_fake = self.discriminator(fake, y).float()
            of_discriminator = hinge_of_discriminator(on_real, on_fake)
            self._descend(self.discriminator_optimiser, of_discriminator)
            terms = terms | of_discriminator
        return {name: term.detach() for name, term in terms.items()}

    def _generator_loss(self, fake: Tensor, y: Tensor, step: int) -> dict[str, Tensor]:
        """Terms that sum to the generator's loss."""
        recipe = self.recipe
        self.discriminator.requires_grad_(False)
        with autocast(self.context):
            scores = self.discriminator(fake, y).float()
        self.discriminator.requires_grad_(True)
        views = draw_jittered_views(len(fake), self.streams.generator("views", step), jitter=recipe.jitter)
        seen = apply_jittered_views(fake, views.to(fake.device, non_blocking=True))
        margins = max_margin(self.victim.logits(at_size(seen, self.victim.image.size)).float(), y)
        return {"loss_generator": -scores.mean(), "loss_identity": recipe.identity_weight * margins.mean()}

    def _generated(self, name: str, *numbers: int) -> tuple[Tensor, Tensor]:
        """A batch of images ``(B, 3, 64, 64)`` and the classes, evenly drawn, that they were made for."""
        draws, size = self.streams.generator(name, *numbers), self.recipe.batch_size
        z = torch.randn(size, self.recipe.z_dim, generator=draws)
        y = torch.randint(self.victim.num_classes, (size,), generator=draws)
        z, y = (drawn.to(self.context.device, non_blocking=True) for drawn in (z, y))
        with autocast(self.context):
            return self.generator(z, y).float(), y

    def _labelled(self, batch: int) -> tuple[Tensor, Tensor]:
        """Real images ``(B, 3, 64, 64)`` and their pseudo-labels: shuffled in each epoch, the rest dropped."""
        size = self.recipe.batch_size
        epoch, number = divmod(batch, len(self.rows) // size)
        if self.order is None or self.order[0] != epoch:
            self.order = epoch, torch.randperm(len(self.rows), generator=self.streams.generator("order", epoch))
        chosen = self.order[1][number * size : (number + 1) * size]
        device = self.context.device
        rows, y = (kept[chosen].to(device, non_blocking=True) for kept in (self.rows, self.classes))
        images = self.public_images[rows].float() / 255
        noise = torch.rand(images.shape, generator=self.streams.generator("dequantisation", batch))
        return images + _DEQUANTISATION * noise.to(device, non_blocking=True), y

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self.recipe.learning_rate, betas=self.recipe.betas, fused=True)

    @staticmethod
    def _descend(optimiser: torch.optim.Optimizer, terms: dict[str, Tensor]) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()


def hinge_of_discriminator(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """``mean relu(1 - D(x))`` and ``mean relu(1 + D(G(z)))``: the hinge loss on scores ``(B, 1)``, two terms."""
    return {"loss_real": (1 - real).relu().mean(), "loss_fake": (1 + fake).relu().mean()}
