"""Recipes: how targets, judges and the identity regressor are trained."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Defence, ImageSpec, MibenchError, TrainedWeights, TrainingContext, network_traits, suggest
from mibench.api.training import initial_weights, stored_weights
from mibench.data.split import Images
from mibench.rng import Streams, derive, stream
from mibench.targets import CATALOGUE

from .augment import channels_last_store
from .backbones import start_from
from .evaluation import accuracy
from .supervised import SupervisedRecipe, fit, why_diverged


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(SupervisedRecipe):
    """Cross entropy on the private train images, accuracy on all private test images."""

    architecture: str = "vgg16"
    label_smoothing: float = 0.0
    least_smoothing: ClassVar[float] = 0.0
    images_per_identity: int | None = None  # of each person's train images, chosen by the seed; None: all
    init: str | None = None  # backbone to start from: ir50@ms1m (facenet64, facenet112), ir152@ms1m, vgg16_bn@imagenet

    def check(self, images: int | None = None) -> None:
        """Raise where a setting makes no sense."""
        super().check(images)
        if not self.least_smoothing <= self.label_smoothing <= 1:
            raise MibenchError(f"label_smoothing must lie in [0, 1], got {self.label_smoothing}")
        if self.images_per_identity is not None and self.images_per_identity < 1:
            raise MibenchError(f"images_per_identity must be 1 or more, got {self.images_per_identity}")

    def parts(self, data: Any) -> tuple[Images, Images, int]:
        """Images to train on and images to measure on, with labels, and the number of classes."""
        return data.private("train", self.size), data.private("test", self.size), data.num_classes

    def run(self, data: Any, context: TrainingContext) -> TrainedWeights:
        """Train on the first of :meth:`parts`, from the checkpoint when there is one."""
        self.check()
        replacing = next((defence.name for defence in context.defences if defence.replaces_loss), None)
        if self.label_smoothing and replacing is not None:
            raise MibenchError(
                f"train.label_smoothing={self.label_smoothing:g} has no effect beside the defence {replacing!r}",
                cure="set it to 0, and train an undefended twin without it",
            )
        train, test, classes = self.parts(data)
        _check_images(train, self.size, classes)
        _check_images(test, self.size, classes)
        if self.images_per_identity is not None:
            train = fewer_images(train, self.images_per_identity, context.seed)
        device = context.device
        train_store, test_store = (channels_last_store(images.pixels, device) for images in (train, test))
        train_labels, test_labels = (images.labels.to(device) for images in (train, test))
        streams = Streams(context.seed, ("train", self.kind, self.architecture))
        network, architecture, arguments = build(self, streams, context.defences, num_classes=classes)
        if self.init is not None:
            self.start(network, context.initial)
        normalise_inside(network, self.image)
        fitted = fit(
            network,
            train_store,
            train_labels,
            recipe=self,
            context=context,
            streams=streams,
            loss=self.loss,
            evaluate=lambda net: {"test_accuracy": accuracy(net, test_store, test_labels, context)},
            num_classes=classes,
            fresh_network=partial(another, self, architecture, arguments),
            public=lambda count: data.public(self.size, count).pixels,
        )
        why = why_diverged(context)
        weights = stored_weights(network, self.storage, cure=self.steadier if why is None else why[1])
        network.load_state_dict(weights)  # what is measured below is what is stored

        def measured(answering: nn.Module, store: Tensor, labels: Tensor) -> float:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(derive(streams.seed, *streams.names, "accuracy"))  # for one that draws its answers
                return accuracy(answering, store, labels)

        others = {
            f"test_accuracy_{name}": measured(answering, test_store, test_labels)
            for defence in context.defences
            for name, answering in defence.other_answers(network).items()
        }
        return TrainedWeights(
            architecture=architecture,
            arguments=arguments,
            image=self.image,
            weights=weights,
            classes=classes,
            artefacts=fitted.artefacts,
            measured={
                "test_accuracy": measured(network, test_store, test_labels),
                "test_images": len(test),
                "train_accuracy": measured(network, train_store, train_labels),
                "train_images": len(train),
                "epoch": fitted.epoch,
                "selection": fitted.selection,
                "storage": self.storage,
                **others,
                **fitted.measured,
            },
        )

    @property
    def backbone(self) -> str | None:
        return self.init

    def start(self, network: nn.Module, initial: Mapping[str, Tensor] | None) -> None:
        """Put the weights of the backbone ``init`` into a fresh network.

        Raises:
            MibenchError: they are not this network's.
        """
        if initial is None:
            raise MibenchError(f"the weights of the backbone {self.init!r} were not handed over to the recipe")
        start_from(network, initial, backbone=str(self.init), architecture=self.architecture)

    def loss(self, output: Any, labels: Tensor, epoch: int) -> Mapping[str, Tensor]:
        """Mean cross entropy of a batch, and the accuracy on it."""
        logits = output.logits.float()
        entropy = nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return {"loss": entropy, "accuracy": (logits.argmax(dim=1) == labels).float().mean()}


@dataclass(frozen=True, kw_only=True)
class TrainTarget(TrainClassifier):
    """A classifier to attack: ``vgg16``, ``ir152`` or ``facenet64``, at 64 pixels."""

    kind: ClassVar[str] = "target"
    defends: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class TrainJudge(TrainClassifier):
    """The referee's classifier, at 112 pixels; no attack ever sees it."""

    kind: ClassVar[str] = "judge"

    architecture: str = "facenet112"
    size: int = 112
    epochs: int = 30


def build(
    recipe: SupervisedRecipe, streams: Streams, defences: Sequence[Defence] = (), **arguments: object
) -> tuple[nn.Module, str, dict[str, object]]:
    """The recipe's network with its initial weights, its architecture, and the keyword arguments that build it again.

    Args:
        recipe: names the architecture.
        streams: whence the initial weights.
        defences: may train another architecture in its place.
        arguments: keyword arguments besides the recipe's own.

    Raises:
        MibenchError: the architecture is unknown, is of no use to a defence, or has no dropout although the recipe sets
            one.
    """
    known = CATALOGUE[recipe.trains or recipe.kind]
    if recipe.architecture not in known:
        hint = suggest(recipe.architecture, known) or f"; choose one of {', '.join(known)}"
        raise MibenchError(f"unknown {recipe.kind} architecture {recipe.architecture!r}{hint}")
    name, arguments = recipe.architecture, {**arguments, **recipe.arguments()}
    for defence in defences:
        name, arguments = defence.architecture(name, arguments)
    architecture = _architecture(recipe, name)
    if name == recipe.architecture and (reason := network_traits(architecture).not_trained) is not None:
        raise MibenchError(f"{recipe.architecture} is not trained by itself: {reason}")
    network: nn.Module = initial_weights(streams, "initial weights", build=lambda: architecture(**arguments))
    if recipe.dropout is not None:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
        if not layers:
            raise MibenchError(f"{recipe.architecture} has no dropout", cure="leave the setting 'dropout' out")
        if not 0 <= recipe.dropout < 1:
            raise MibenchError(f"dropout must be in [0, 1), got {recipe.dropout}")
        for layer in layers:
            layer.p = recipe.dropout
    return network, name, arguments


def another(
    recipe: SupervisedRecipe,
    name: str,
    arguments: Mapping[str, Any],
    streams: Streams,
    *,
    num_classes: int,
    width: float = 1.0,
) -> nn.Module:
    """A network beside the recipe's, for a defence: of the same architecture, behind the same normalisation.

    Args:
        recipe: of the training.
        name, arguments: of its network, as :func:`build` gave them.
        streams: whence the initial weights.
        num_classes: of the other one.
        width: times that of the recipe's network.
    """
    chosen = {**arguments, "num_classes": num_classes, "width": width * float(arguments.get("width", 1.0))}
    network: nn.Module = initial_weights(streams, "weights", build=lambda: _architecture(recipe, name)(**chosen))
    normalise_inside(network, recipe.image)
    return network


def _architecture(recipe: SupervisedRecipe, name: str) -> Any:
    module, _, attribute = CATALOGUE[recipe.trains or recipe.kind][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def fewer_images(images: Images, count: int, seed: int) -> Images:
    """``count`` images of each class, all of classes that have no more: the first of an order drawn from the seed.

    The choice depends on the seed and the data alone, so all networks and defences of a seed see the same images, and
    10 images of a class are among its 20.

    Args:
        images: of any number per class; left alone.
        count: 1 or more.
        seed: of the training.

    Returns:
        The chosen ones in the order they had.

    Raises:
        MibenchError: no class has more than ``count``, so that nothing would be left out.
    """
    labels, most, chosen = images.labels.cpu(), 0, []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(own), generator=stream(seed, "images_per_identity", label))
        most = max(most, len(own))
        chosen.append(own[order[:count]])
    if most <= count:
        raise MibenchError(
            f"images_per_identity={count} leaves nothing out: no identity has more than {most} images to train on",
            cure="set fewer, or leave it out",
        )
    kept = torch.cat(chosen).sort().values
    return Images(images.pixels[kept], images.labels[kept], tuple(images.identities[i] for i in kept.tolist()))


def normalise_inside(network: nn.Module, image: ImageSpec) -> None:
    """Have a network take images in [0, 1] and normalise them itself, as the referee's wrappers do for a trained one.

    A hook, so that the state keeps its keys: what is trained and what is attacked see the same numbers.
    """
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (image.mean, image.std))
    if bool((mean == 0).all() & (std == 1).all()):
        return
    moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}  # once, not at every step

    def normalised(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *rest = arguments
        key = images.device, images.dtype
        if key not in moved:
            with torch.inference_mode(False):  # measuring accuracies may come first, and training needs them too
                moved[key] = mean.to(images), std.to(images)
        return ((images - moved[key][0]) / moved[key][1], *rest)

    network.register_forward_pre_hook(normalised)


def _check_images(images: Images, size: int, num_classes: int) -> None:
    expected = (3, size, size)
    if images.pixels.dtype != torch.uint8 or tuple(images.pixels.shape[1:]) != expected:
        raise MibenchError(
            f"expected uint8 images of shape (N, {', '.join(map(str, expected))}), "
            f"got {images.pixels.dtype} {tuple(images.pixels.shape)}"
        )
    if len(images) == 0:
        raise MibenchError("the data set has no private images in this part", cure="check its settings")
    if not 0 <= int(images.labels.min()) <= int(images.labels.max()) < num_classes:
        raise MibenchError(f"private labels must lie in 0..{num_classes - 1}; the data set is inconsistent")
