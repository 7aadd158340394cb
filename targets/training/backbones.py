"""Backbones: public weights that a training starts from, published or trained here. They classify nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mibench.api import MibenchError, load_strictly
from mibench.targets.networks import ir
from mibench.targets.networks.vgg16 import check_size, convolutions, initialise


class IR50Backbone(ir.Backbone):
    """IR-50 of face.evoLVe with its output layer: images ``(N, 3, 112, 112)`` to vectors ``(N, 512)``."""

    def __init__(self, width: float = 1.0, *, size: int = 112) -> None:
        super().__init__(ir.IR50, width, size=size, embedding=True)
        ir.initialise(self)


class IR152Backbone(ir.Backbone):
    """IR-152 of face.evoLVe with its output layer: images ``(N, 3, 112, 112)`` to vectors ``(N, 512)``."""

    def __init__(self, width: float = 1.0, *, size: int = 112) -> None:
        super().__init__(ir.IR152, width, size=size, embedding=True)
        ir.initialise(self)


class VGG16BN(nn.Module):
    """The convolutions of torchvision's vgg16_bn; its classifier is of no use here. The size is torchvision's, 224."""

    def __init__(self, width: float = 1.0, *, size: int = 224) -> None:
        super().__init__()
        self.features, _ = convolutions(width)
        self.size = size
        initialise(self.features)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(N, C, size / 32, size / 32)``."""
        maps: Tensor = self.features(images)
        return maps


class VGG16Backbone(nn.Module):
    """The target VGG16 without its classifier: images ``(N, 3, size, size)`` to its features ``(N, D)``."""

    def __init__(self, width: float = 1.0, *, size: int = 64) -> None:
        super().__init__()
        check_size(size)
        self.feature, channels = convolutions(width)
        self.bn = nn.BatchNorm1d(channels * (size // 32) ** 2)
        initialise(self.feature)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, D)`` after the BatchNorm1d."""
        features: Tensor = self.bn(self.feature(images).flatten(1))
        return features


def without_classifier(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a trained target (VGG16, IR152, FaceNet64) as those of its backbone class above."""
    kept = {key: tensor for key, tensor in weights.items() if not key.startswith("fc_layer.")}
    if any(key.startswith("bn.") for key in kept):
        return kept
    return {key.removeprefix("feature."): tensor for key, tensor in kept.items()}


def start_from(network: nn.Module, weights: Mapping[str, Tensor], *, backbone: str, architecture: str) -> None:
    """Load a backbone's weights into ``network.feature``.

    What follows ``feature`` stays fresh. The output layer of a face.evoLVe backbone is for 112 pixels: it is used where
    ``feature`` has one (the judge) and left out where it has none (the 64-pixel targets), as in the released training.

    Raises:
        MibenchError: the network has no backbone.
        MisfitError: the backbone is another one than the network's.
    """
    feature = getattr(network, "feature", None)
    if not isinstance(feature, nn.Module):
        raise MibenchError(f"{architecture} has no backbone that weights could go into", cure="leave train.init out")
    given = {
        key.removeprefix("features.").removeprefix("feature."): tensor
        for key, tensor in weights.items()
        if not key.startswith("bn.")
    }
    if not any(key.startswith("output_layer.") for key in feature.state_dict()):
        given = {key: tensor for key, tensor in given.items() if not key.startswith("output_layer.")}
    load_strictly(
        feature,
        given,
        message=lambda mismatch: (
            f"backbone {backbone!r} is not the one of {architecture}: {mismatch.summary()}; take the backbone of the "
            "same network (vgg16: vgg16 or vgg16_bn, facenet64: facenet64 or ir50, facenet112: ir50, ir152: ir152) at "
            "the same train.width"
        ),
    )


def start_features_from(network: nn.Module, weights: Mapping[str, Tensor], *, backbone: str) -> None:
    """Load everything but the classifier ``fc_layer``: all that makes an image's features.

    The convolutions of vgg16_bn bring no ``bn``: it stays fresh, which in evaluation changes nothing.

    Raises:
        MisfitError: the backbone is another one than the network's, or makes no features at this size of images.
    """
    wanted, prefixes = network.state_dict(), ("input_layer.", "body.")
    given = {key.replace("features.", "feature.", 1): tensor for key, tensor in weights.items()}
    given = {f"feature.{key}" if key.startswith(prefixes) else key: tensor for key, tensor in given.items()}
    fresh = ("fc_layer.",) if any(key.startswith("bn.") for key in given) else ("fc_layer.", "bn.")
    load_strictly(
        network,
        given | {key: tensor for key, tensor in wanted.items() if key.startswith(fresh)},
        message=lambda mismatch: (
            f"backbone {backbone!r} does not make the features of this network: {mismatch.summary()}; take one that "
            "`mibench train backbone` made of the same network at the same train.width and train.size"
        ),
    )
