"""What the owner of a model says about the images it takes, and what follows for the referee's [0, 1] RGB."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mibench.api import ImageSpec, MibenchError, suggest

LARGEST = 4096  # pixels; a side beyond is a slip of the keyboard


@dataclass(frozen=True, kw_only=True)
class ImageConvention:
    """Settings of an import; what is None is inferred or has no effect.

    Attributes:
        classes: C, which the data gives.
        size: side in pixels; an ONNX graph may say it itself.
        range: what black and white are before mean and std, such as (0, 255).
        mean, std: one number, or one for each channel in the model's own order of channels.
        channel_order: ``rgb`` or ``bgr``.
        outputs: roles of what the model returns, in order; empty: told by their shapes.
        factory, arguments, features: see :class:`~mibench.targets.custom.module.ModuleNetwork`.
    """

    classes: int
    size: int | None = None
    range: Sequence[float] = (0.0, 1.0)
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    channel_order: str = "rgb"
    outputs: Sequence[str] = ()
    factory: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    features: str = ""

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= LARGEST:
            raise MibenchError(f"--size must lie between 1 and {LARGEST} pixels, got {self.size}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, 3):
                raise MibenchError(f"--{name} takes one number or three, got {len(getattr(self, name))}")
        if not all(map(math.isfinite, (*self.mean, *self.std, *self.range))) or min(self.std) <= 0:
            raise MibenchError("--mean, --std and --range must be finite, and --std positive")
        if len(self.range) != 2 or self.range[0] >= self.range[1]:
            raise MibenchError(f"--range takes what black and white are, such as 0,255, got {tuple(self.range)}")
        if self.channel_order not in ("rgb", "bgr"):
            raise MibenchError(f"--channel-order must be rgb or bgr, got {self.channel_order!r}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ImageConvention:
        """Read an importer's settings; unknown ones are refused."""
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                raise MibenchError(f"unknown setting 'import.{name}'{suggest(name, known)} (known: {', '.join(known)})")
        if "classes" not in settings:
            raise MibenchError("import.classes is wanted: the number of identities of the data")
        return cls(**settings)

    def image(self, size: int) -> ImageSpec:
        """Range, mean and std as one mean and std of images in [0, 1], in RGB order.

        ``(low + (high - low) x - mean) / std`` is ``(x - (mean - low) / (high - low)) / (std / (high - low))``.
        """
        low, high = self.range
        mean = [(m - low) / (high - low) for m in self.mean]
        std = [s / (high - low) for s in self.std]
        if self.channel_order == "bgr":
            mean, std = mean[::-1], std[::-1]
        return ImageSpec(size=size, mean=tuple(mean), std=tuple(std))
