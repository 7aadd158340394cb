"""TL-DMI: transfer learning (Ho, Hao, Chandrasegaran, Nguyen and Cheung, "Model Inversion Robustness: Can Transfer
Learning Help?", CVPR 2024).

The first layers come from a network that was trained on public images and stay as they are, so that they hold nothing
of the private ones; the rest and a new head are trained by the plain recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from mibench.api import Defence, MibenchError, TrainingHooks, TrainingTask
from mibench.targets.networks.ir import Backbone
from mibench.targets.training.backbones import start_from

PUBLISHED = {"vgg16": 26, "ir152": 46, "facenet64": 5}  # released configurations
FROZEN_BN = ("frozen", "update")
INPUT_LAYER = ("frozen", "trained")


def frozen_layers(network: nn.Module, last: int, *, input_layer: str = "frozen") -> list[nn.Module]:
    """The modules of ``network.feature`` that an index freezes.

    Args:
        network: VGG16, or one with an IR backbone.
        last: of VGG16's convolutions, norms, activations and pools (0 to 43), those up to this one; 0 means all. Of the
            residual units of an IR backbone those up to this one; 0 means none. Both as released.
        input_layer: of an IR backbone, ``frozen`` with the units, or ``trained``: the released code misspells the
            attribute that would freeze it.

    Raises:
        MibenchError: the network has no such layer.
    """
    feature = network.feature
    residual = isinstance(feature, Backbone)
    body = feature.body if isinstance(feature, Backbone) else feature
    assert isinstance(body, nn.Sequential)
    if not 0 <= last < len(body):
        what = "residual units" if residual else "layers"
        raise MibenchError(f"defence.freeze_layers must lie in 0..{len(body) - 1}, the {what} here, got {last}")
    if not residual:
        return list(body.children()) if last == 0 else list(body.children())[: last + 1]
    if last == 0:
        return []
    stem = [feature.input_layer] if isinstance(feature, Backbone) and input_layer == "frozen" else []
    return [*stem, *list(body.children())[: last + 1]]


def first_share(network: nn.Module, share: float) -> list[nn.Module]:
    """The first ``share`` of the leaf modules, in the order of the network, as a toolbox counts them."""
    leaves = _leaves(network)
    return leaves[: int(share * len(leaves))]


def _leaves(module: nn.Module) -> list[nn.Module]:
    """Modules without children or with weights of their own (our strided projections hold a subsampling module)."""
    children = list(module.children())
    if not children or any(True for _ in module.parameters(recurse=False)):
        return [module]
    return [leaf for child in children for leaf in _leaves(child)]


class FreezingHooks(TrainingHooks):
    """Keeps layers as they were when the training began.

    Nothing before the first trained weight wants a gradient, so that no graph is built there: those layers cost a
    forward pass only, as under ``no_grad``.
    """

    def __init__(self, network: nn.Module, frozen: Sequence[nn.Module], *, update_norms: bool = False) -> None:
        super().__init__()
        self.frozen, self.update_norms = tuple(frozen), update_norms
        for module in self.frozen:
            module.requires_grad_(False)

    def train_mode(self, network: nn.Module) -> None:
        """Frozen layers stay in evaluation: in training mode their norms would take up private statistics."""
        if not self.update_norms:
            for module in self.frozen:
                module.eval()

    def measured(self, network: nn.Module) -> Mapping[str, float | int | str]:
        """How many parameters were trained, of how many."""
        parameters = list(network.parameters())
        return {
            "trained_parameters": sum(one.numel() for one in parameters if one.requires_grad),
            "parameters": sum(one.numel() for one in parameters),
        }


@dataclass(frozen=True, kw_only=True)
class TransferLearning(Defence):
    """Public first layers that stay frozen, and a new head (TL-DMI).

    Attributes:
        public: card of the backbone that the layers come from; None: ``ARCHITECTURE+public`` of the training's data set
            (``mibench train backbone``).
        freeze_layers: index of the last frozen layer, see :func:`frozen_layers`; None: the published depth (26 of
            VGG16, 46 of IR152, 5 of FaceNet64).
        freeze_share: freeze this share of the network's leaf modules instead; None: ``freeze_layers`` counts.
        frozen_bn: ``frozen``: norms of frozen layers keep their public statistics; ``update``: they go on taking up
            private ones, as in the released code.
        input_layer: ``frozen``, or ``trained`` as in the released code; IR backbones only.
    """

    name: ClassVar[str] = "tl-dmi"
    adaptive: ClassVar[tuple[str, ...]] = ("ppa:transfer",)
    compatible: ClassVar[tuple[str, ...] | None] = tuple(PUBLISHED)

    public: str | None = None
    freeze_layers: int | None = None
    freeze_share: float | None = None
    frozen_bn: str = "frozen"
    input_layer: str = "frozen"

    def backbone(self, architecture: str) -> str | None:
        """The card that ``public`` names."""
        return self.public or f"{architecture}+public"

    def check(self) -> None:
        """Raise where a setting makes no sense."""
        for name, value, known in (
            ("frozen_bn", self.frozen_bn, FROZEN_BN),
            ("input_layer", self.input_layer, INPUT_LAYER),
        ):
            if value not in known:
                raise MibenchError(
                    f"unknown defence.{name} {value!r}",
                    cure=f"choose one of {', '.join(known)}",
                )
        if self.freeze_share is not None and self.freeze_layers is not None:
            raise MibenchError(
                "defence.freeze_layers and defence.freeze_share exclude each other",
                cure="set one of them",
            )
        if self.freeze_share is not None and not 0 <= self.freeze_share < 1:
            raise MibenchError(f"defence.freeze_share must lie in [0, 1), got {self.freeze_share}")
        if self.freeze_layers is not None and self.freeze_layers < 0:
            raise MibenchError(f"defence.freeze_layers must be 0 or more, got {self.freeze_layers}")

    def hooks(self, network: nn.Module, task: TrainingTask) -> TrainingHooks:
        """Load the public layers, then freeze the first ones."""
        if task.initial is None:
            raise MibenchError("the weights of the public backbone were not handed over to the defence tl-dmi")
        kind = type(network).__name__.lower()
        start_from(network, task.initial, backbone=str(self.backbone(kind)), architecture=kind)
        return FreezingHooks(network, self.chosen(network), update_norms=self.frozen_bn == "update")

    def chosen(self, network: nn.Module) -> list[nn.Module]:
        """The layers that these settings freeze."""
        if self.freeze_share is not None:
            return first_share(network, self.freeze_share)
        last = self.freeze_layers
        if last is None:
            kind = type(network).__name__.lower()  # vgg16_mid is as deep as vgg16
            last = next(depth for name, depth in PUBLISHED.items() if kind.startswith(name))
        return frozen_layers(network, last, input_layer=self.input_layer)
