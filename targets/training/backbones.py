"""Backbones: published weights that a training starts from. They classify nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mibench.api import MibenchError, load_strictly
from mibench.targets.networks import ir
from mibench.targets.networks.vgg16 import convolutions, initialise


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


def start_from(network: nn.Module, weights: Mapping[str, Tensor], *, backbone: str, architecture: str) -> None:
    """Load a backbone's weights into ``network.feature``.

    The output layer of a face.evoLVe backbone is for 112 pixels: it is used where ``feature`` has one (the judge) and
    left out where it has none (the 64-pixel targets), as in the released training.

    Raises:
        MibenchError: the network has no backbone.
        MisfitError: the backbone is another one than the network's.
    """
    feature = getattr(network, "feature", None)
    if not isinstance(feature, nn.Module):
        raise MibenchError(f"{architecture} has no backbone that weights could go into", cure="leave train.init out")
    given = {key.removeprefix("features."): tensor for key, tensor in weights.items()}
    if not any(key.startswith("output_layer.") for key in feature.state_dict()):
        given = {key: tensor for key, tensor in given.items() if not key.startswith("output_layer.")}
    load_strictly(
        feature,
        given,
        message=lambda mismatch: (
            f"backbone {backbone!r} is not the one of {architecture}: {mismatch.summary()}; take the backbone of the "
            "same network (vgg16: vgg16_bn, facenet64 and facenet112: ir50, ir152: ir152) at the same train.width"
        ),
    )
