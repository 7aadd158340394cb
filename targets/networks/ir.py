"""IR residual backbones (ArcFace, face.evoLVe) and the classifier that two targets build on them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mibench.api import ClassifierOutput, MibenchError

from .prelu import ChannelPReLU
from .width import scaled

STAGE_CHANNELS = (64, 128, 256, 512)
IR50 = (3, 4, 14, 3)
IR152 = (3, 8, 36, 3)


class Subsample(nn.Module):
    """Every ``stride``-th pixel: a max-pool with kernel 1, as a view."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, ceil(H / stride), ceil(W / stride))``."""
        return images if self.stride == 1 else images[:, :, :: self.stride, :: self.stride]


class Projection(nn.Conv2d):
    """1x1 convolution with a stride, as subsampling and then a convolution without one.

    The same numbers, and the keys of a Conv2d; but torch 2.14's CPU kernel for the strided one writes outside its
    memory in the backward pass (8 to 16 channels, channels_last: a crash).
    """

    def __init__(self, channels: int, depth: int, stride: int) -> None:
        super().__init__(channels, depth, 1, bias=False)
        self.subsample = Subsample(stride)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to ``(N, depth, ceil(H / stride), ceil(W / stride))``."""
        return super().forward(self.subsample(images))


class ResidualUnit(nn.Module):
    """BN, 3x3, PReLU, strided 3x3, BN; plus a shortcut. No activation after the sum.

    Attributes:
        skip: how much the shortcut counts; at 0 it is not computed.
        weakened: False: it counts whole.
    """

    def __init__(self, channels: int, depth: int, stride: int, *, projected: bool, skip: float = 1.0) -> None:
        super().__init__()
        self.skip, self.weakened = skip, skip != 1
        # The shortcut comes first: the key order of the released checkpoints.
        self.shortcut_layer: nn.Module = Subsample(stride)
        if projected:
            self.shortcut_layer = nn.Sequential(Projection(channels, depth, stride), nn.BatchNorm2d(depth))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, depth, 3, 1, 1, bias=False),
            ChannelPReLU(depth),
            nn.Conv2d(depth, depth, 3, stride, 1, bias=False),
            nn.BatchNorm2d(depth),
        )

    def forward(self, images: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to ``(N, depth, ceil(H / stride), ceil(W / stride))``."""
        residual: Tensor = self.res_layer(images)
        if self.weakened and self.skip == 0:
            return residual
        shortcut: Tensor = self.shortcut_layer(images)
        return residual + (self.skip * shortcut if self.weakened else shortcut)


class Backbone(nn.Module):
    """IR backbone: images ``(N, 3, size, size)`` to maps ``(N, 512 w, size / 16, size / 16)``.

    With ``embedding`` it carries its own output layer and gives vectors ``(N, 512 w)`` instead (the 112 evaluator).

    Args:
        units: residual units per stage (:data:`IR50`, :data:`IR152`); each stage halves the image.
        width: multiplies every channel count.
        size: side of the images in pixels.
        embedding: put the output layer inside the backbone.
        dropout: rate inside that output layer.
        skip: how much the shortcuts of every stage count; None: all of them whole.
    """

    def __init__(
        self,
        units: tuple[int, ...],
        width: float,
        *,
        size: int,
        embedding: bool = False,
        dropout: float = 0.5,
        skip: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.units = units
        skip = [1.0] * len(units) if skip is None else skip
        if len(skip) != len(units):
            raise MibenchError(f"skip needs a factor for each of the {len(units)} stages, got {list(skip)}")
        stem = scaled(STAGE_CHANNELS[0], width)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), ChannelPReLU(stem)
        )
        self.channels = scaled(STAGE_CHANNELS[-1], width)
        self.spatial = size
        for _ in units:
            self.spatial = (self.spatial + 1) // 2
        if embedding:  # before the body: the key order of the released checkpoints
            self.output_layer = embedding_layer(self.channels, self.spatial, dropout)
        body: list[nn.Module] = []
        channels, published = stem, STAGE_CHANNELS[0]
        for count, stage, counts in zip(units, STAGE_CHANNELS, skip, strict=True):
            depth = scaled(stage, width)
            # Decided by the published channel counts, so that the keys are the same at every width.
            body.append(ResidualUnit(channels, depth, 2, projected=published != stage, skip=counts))
            body += [ResidualUnit(depth, depth, 1, projected=False, skip=counts) for _ in range(count - 1)]
            channels, published = depth, stage
        self.body = nn.Sequential(*body)
        self._embeds = embedding

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, S, S)``, or vectors ``(N, C)`` where the backbone embeds."""
        maps: Tensor = self.body(self.input_layer(images))
        return self.output_layer(maps) if self._embeds else maps


def embedding_layer(channels: int, spatial: int, dropout: float) -> nn.Sequential:
    """BN, dropout, flatten, linear, BN: maps ``(N, channels, spatial, spatial)`` to vectors ``(N, channels)``."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(channels * spatial**2, channels),
        nn.BatchNorm1d(channels),
    )


def initialise(network: nn.Module) -> None:
    """Xavier-uniform convolutions and linear layers; norms and slopes keep torch's defaults (face.evoLVe)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class IRClassifier(nn.Module):
    """Backbone, output layer, linear classifier: the 64-pixel targets IR152 and FaceNet64.

    Images ``(N, 3, size, size)`` in [0, 1] give features ``(N, D)`` and raw logits ``(N, num_classes)``; ``D`` is
    512 at width 1. Subclasses set ``units``. ``skip``: how much the shortcuts of each of the four stages count.
    """

    units: tuple[int, ...]

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        dropout: float = 0.5,
        *,
        size: int = 64,
        skip: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.feature = Backbone(self.units, width, size=size, skip=skip)
        self.output_layer = embedding_layer(self.feature.channels, self.feature.spatial, dropout)
        self.fc_layer = nn.Linear(self.feature.channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, num_classes)``."""
        features = self.output_layer(self.feature(images))
        return ClassifierOutput(features, self.fc_layer(features))
