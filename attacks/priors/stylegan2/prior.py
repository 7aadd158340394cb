"""StyleGAN2 as a prior: latents to images for every attack, and the parts that DMMIA and PPA work on.

Shapes: N images, U identities, B latents per identity, Z latent and E style dimensions (``z_dim``, ``w_dim``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from mibench.api import ImageSpec, MappingPrior, MibenchError
from mibench.attacks.priors.loading import load_parts, read_arguments
from mibench.rng import stream

from .discriminator import Discriminator
from .generator import Generator, normalise
from .layers import GAIN, SLOPE, FullyConnected, NoiseMode

_STATISTICS_SEED = 20_230_901  # of the fixed draws behind w_std and the critic's spread: part of what they mean
_STATISTICS_DRAWS = 10_000
_SPREAD_DRAWS = 256


@dataclass(frozen=True, kw_only=True)
class StyleGAN2Arguments:
    """What builds the prior. The widths of the discriminator default to those of the generator."""

    z_dim: int = 512
    w_dim: int = 512
    resolution: int = 64
    channel_base: int = 16384
    channel_max: int = 512
    mapping_layers: int = 8
    conv_clamp: float | None = None
    discriminator_base: int | None = None
    discriminator_max: int | None = None
    discriminator_group: int = 4  # images among which the discriminator compares
    truncation: float = 0.7
    noise: NoiseMode = "const"
    crop: int | None = None  # pixels of the middle square that a target is shown; None: the whole image

    def __post_init__(self) -> None:
        if self.noise not in ("const", "none"):
            raise MibenchError(f"prior.noise={self.noise!r} is not one of const, none")
        number = isinstance(self.truncation, int | float) and not isinstance(self.truncation, bool)
        if not number or not math.isfinite(self.truncation):
            raise MibenchError(f"prior.truncation must be a finite number, got {self.truncation!r}")
        if self.crop is not None and (type(self.crop) is not int or not 1 <= self.crop <= self.resolution):
            raise MibenchError(
                f"prior.crop must be a whole number of pixels from 1 to {self.resolution}, or null for the whole "
                f"image, got {self.crop!r}",
                cure="name what targets are shown of this prior: --set prior.crop=N",
            )

    def generator(self) -> Generator:
        """The generator, with fresh weights."""
        return Generator(
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            resolution=self.resolution,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            mapping_layers=self.mapping_layers,
            conv_clamp=self.conv_clamp,
        )

    def discriminator(self) -> Discriminator:
        """The discriminator, with fresh weights."""
        return Discriminator(
            resolution=self.resolution,
            channel_base=self.discriminator_base or self.channel_base,
            channel_max=self.discriminator_max or self.channel_max,
            conv_clamp=self.conv_clamp,
            group=self.discriminator_group,
        )


class StyleGAN2Prior(MappingPrior):
    """A frozen StyleGAN2. Gradients reach latents, styles, images and copies of mapping weights, never its own weights.

    Args:
        generator: with its final weights; frozen here.
        discriminator: for :meth:`realism`, or None.
        image: the images it makes, square, RGB, in [0, 1].
        name: for messages and records.
        truncation: psi of :meth:`decode`: 1 is the whole distribution, 0 the mean face only.
        crop: pixels of the middle square that :meth:`mibench.api.Context.fit` shows a target; None: all. Images made
            here are whole: the discriminator judges whole images.
        noise: "const" adds each layer's fixed map, "none" leaves the grain of the camera out. Either way equal styles
            give equal images.
        dtype: of the convolutions (float32, or bfloat16 for speed at about 1 % error).
    """

    options: ClassVar[tuple[str, ...]] = ("truncation", "noise", "crop")

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | None,
        *,
        image: ImageSpec,
        name: str = "stylegan2",
        truncation: float = 0.7,
        noise: NoiseMode = "const",
        crop: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if (image.size, image.channels) != (generator.resolution, 3):
            raise MibenchError(
                f"prior {name!r} makes images 3x{generator.resolution}x{generator.resolution}, its card says "
                f"{image.channels}x{image.size}x{image.size}",
                cure="correct the card",
            )
        self.generator = generator.eval().requires_grad_(False)
        self.generator.synthesis.freeze()
        self.discriminator = None if discriminator is None else discriminator.eval().requires_grad_(False)
        self.image = image
        self.name = name
        self.truncation = truncation
        self.noise: NoiseMode = noise
        self.crop = crop
        self.dtype = dtype
        self.latent_dim = generator.z_dim
        self.w_dim = generator.w_dim
        self.num_ws = self.num_styles = generator.num_ws
        self._statistics: dict[tuple[str, torch.device], Tensor] = {}

    @classmethod
    def check(cls, arguments: Mapping[str, object], name: str) -> None:
        """Refuse arguments that :meth:`build` would refuse, before any weights are read."""
        read_arguments(StyleGAN2Arguments, arguments, name)

    @classmethod
    def build(
        cls, arguments: Mapping[str, object], weights: Mapping[str, Tensor], image: ImageSpec, *, name: str
    ) -> Self:
        """From a card's arguments and weights. Keys begin with ``G.`` (generator) or ``D.`` (discriminator, optional).

        Weights of any floating type are accepted and computed with in float32.

        Raises:
            MibenchError: unknown arguments, or weights that do not fit them exactly.
        """
        settings = read_arguments(StyleGAN2Arguments, arguments, name)
        stray = sorted(key for key in weights if not key.startswith(("G.", "D.")))
        if stray:
            raise MibenchError(
                f"prior {name!r}: weight {stray[0]!r} is neither of G. nor of D.", cure="use a file of this kind"
            )
        generator = settings.generator()
        discriminator = settings.discriminator() if any(key.startswith("D.") for key in weights) else None
        load_parts({"G": generator, **({} if discriminator is None else {"D": discriminator})}, weights, name)
        return cls(
            generator,
            discriminator,
            image=image,
            name=name,
            truncation=settings.truncation,
            noise=settings.noise,
            crop=settings.crop,
        )

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place; returns itself."""
        self.generator.to(device)
        if self.discriminator is not None:
            self.discriminator.to(device)
        return self

    @property
    def has_discriminator(self) -> bool:
        """A generator may come alone."""
        return self.discriminator is not None

    @property
    def bytes_per_image(self) -> int:
        """Memory that one image takes, forwards and backwards: about five numbers for each output of a convolution
        (measured by ``benchmarks/stylegan2_memory.py``; fewer for small images)."""
        outputs = sum(layer.weight.shape[0] * layer.resolution**2 for layer in self.generator.synthesis.layers())
        return 5 * outputs * 4

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.w_avg.device

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Latents ``(n, Z)``, standard normal, on the CPU."""
        return torch.randn(n, self.latent_dim, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``(N, 3, R, R)`` in [0, 1] from latents ``(N, Z)``, truncated by :attr:`truncation`."""
        return self.synthesis(self.truncate(self.mapping(latents), self.truncation))

    def realism(self, images: Tensor) -> Tensor:
        """The discriminator's logit ``(N,)`` for images ``(N, 3, R, R)`` in [0, 1]; higher is more realistic.

        The discriminator also sees how much the images of its batch differ; here that is the constant measured once
        on this prior's own samples, so that a score does not depend on the batch.

        Raises:
            MibenchError: the prior has no discriminator.
        """
        if self.discriminator is None:
            return super().realism(images)  # raises
        logits: Tensor = self.discriminator(images * 2 - 1, dtype=self.dtype, spread=self._spread)
        return logits[:, 0]

    def mapping(self, z: Tensor) -> Tensor:
        """Styles ``(N, E)`` before truncation, from latents ``(N, Z)``."""
        w: Tensor = self.generator.mapping(z.to(self.device))
        return w

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """``w_avg + psi (w - w_avg)`` for styles ``(..., E)``."""
        return self.generator.mapping.truncate(w, psi)

    def synthesis(self, w: Tensor) -> Tensor:
        """Images ``(N, 3, R, R)`` in [0, 1] from styles ``(N, E)``, or ``(N, num_ws, E)`` with one for each layer.

        The network's output x becomes (x + 1) / 2, clamped: where it leaves [0, 1] the gradient is zero.
        """
        ws = w if w.dim() == 3 else w[:, None].expand(-1, self.num_ws, -1)
        images: Tensor = self.generator.synthesis(ws, noise_mode=self.noise, dtype=self.dtype)
        return images.mul(0.5).add(0.5).clamp(0, 1)

    @property
    def stages(self) -> int:
        """Blocks of the synthesis network: where it can be entered (:meth:`synthesis_from`)."""
        return len(self.generator.synthesis.resolutions)

    def synthesis_from(self, stage: int, w: Tensor, features: Tensor | None, colours: Tensor | None) -> Tensor:
        """Images ``(N, 3, R, R)`` in [0, 1] by blocks ``stage`` and later.

        Args:
            stage: number of a block, from 0; 0 is :meth:`synthesis`.
            w: styles ``(N, E)`` of all layers.
            features: what enters the block, ``(N, C, H, H)``; None at block 0.
            colours: the image of the blocks before, ``(N, 3, H, H)``; None leaves it out.
        """
        ws = w[:, None].expand(-1, self.num_ws, -1)
        images = self.generator.synthesis.through(
            ws, features, colours, first=stage, noise_mode=self.noise, dtype=self.dtype
        )[1]
        assert images is not None
        return images.mul(0.5).add(0.5).clamp(0, 1)

    def entering(self, stage: int, w: Tensor, features: Tensor | None, colours: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features and image that enter block ``stage`` (from 1), from those that enter the block before it."""
        ws = w[:, None].expand(-1, self.num_ws, -1)
        features, colours = self.generator.synthesis.through(
            ws, features, colours, first=stage - 1, end=stage, noise_mode=self.noise, dtype=self.dtype
        )
        assert colours is not None
        return features, colours

    @property
    def num_mapping_layers(self) -> int:
        """Fully connected layers of the mapping network."""
        return self.generator.mapping.num_layers

    def mapping_parameters(self) -> list[tuple[Tensor, Tensor]]:
        """RAW ``(weight (E, I), bias (E,))`` of each mapping layer: copies, which an attack may optimise.

        What the layer uses is ``weight * 0.01 / sqrt(I)`` and ``bias * 0.01`` (raw weights have a standard deviation
        of about 100): a step of a given size on a raw weight moves the styles far less than it looks.
        """
        return [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in self._mapping_layers()]

    def stacked_mapping(self, parameters: Sequence[tuple[Tensor, Tensor]], z: Tensor) -> Tensor:
        """Styles ``(U, B, E)`` before truncation from latents ``(U, B, Z)``, each identity by weights of its own.

        Args:
            parameters: for each layer raw weights ``(U, E, I)`` and biases ``(U, E)``, as copies of
                :meth:`mapping_parameters` stacked along a new first axis. Gradients flow to them.
            z: latents.
        """
        layers = self._mapping_layers()
        if len(parameters) != len(layers):
            raise ValueError(f"expected parameters of {len(layers)} mapping layers, got {len(parameters)}")
        w = normalise(z.to(self.device))
        for layer, (weight, bias) in zip(layers, parameters, strict=True):
            # scaling the latents instead of the weights: B x I numbers, not E x I
            w = torch.baddbmm(bias[:, None] * layer.bias_gain, w * layer.weight_gain, weight.transpose(1, 2))
            w = functional.leaky_relu(w, SLOPE) * GAIN
        return w

    @property
    def w_avg(self) -> Tensor:
        """The mean style ``(E,)``, tracked in training."""
        return self.generator.mapping.w_avg

    @property
    def w_std(self) -> Tensor:
        """Standard deviation ``(E,)`` of each style dimension over 10,000 fixed draws: the unit of drift in style."""
        return self._statistic("w_std", self._measured_w_std)

    @property
    def _spread(self) -> Tensor:
        return self._statistic("spread", self._measured_spread)

    @torch.no_grad()
    def _statistic(self, name: str, measure: Callable[[], Tensor]) -> Tensor:
        """A number of this prior, measured once and kept where the weights are: attacks ask at every step."""
        key = name, self.device
        if key not in self._statistics:
            measured = [value for (known, _), value in self._statistics.items() if known == name]
            self._statistics[key] = measured[0].to(self.device) if measured else measure()
        return self._statistics[key]

    def _measured_w_std(self) -> Tensor:
        draws = self.sample(_STATISTICS_DRAWS, stream(_STATISTICS_SEED, "w_std"))
        return self.mapping(draws).std(dim=0)

    def _measured_spread(self) -> Tensor:
        assert self.discriminator is not None
        large = self.generator.resolution > 128
        draws = self.sample(_SPREAD_DRAWS // (8 if large else 1), stream(_STATISTICS_SEED, "spread"))
        together = self.discriminator.b4.group if large else 32  # a group of large images takes gigabytes
        parts = [self.discriminator.spread(self.synthesis(self.mapping(z)) * 2 - 1) for z in draws.split(together)]
        return torch.stack(parts).mean()

    def _mapping_layers(self) -> list[FullyConnected]:
        return self.generator.mapping.layers()
