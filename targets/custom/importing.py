"""Takes somebody's own model in: weights and what a card says, from a file and what its owner declares.

The model is shown two images of noise. What it returns tells logits from features and probabilities, whether it runs
at all at this size, whether a result depends on the batch, and whether it is the same twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mibench.api import ImageSpec, MibenchError, TrainedWeights, WeightsContents, foreign
from mibench.rng import stream

from .causes import likely
from .factory import code_of, worded
from .loading import check_numbers, fill
from .module import ModuleNetwork, last_linear
from .network import OwnNetwork
from .onnx import OnnxNetwork
from .outputs import check_roles, recognise
from .preprocessing import ImageConvention
from .torchscript import TorchScriptNetwork

PROBE = 2  # images shown to a model that is taken in
SAME = 1e-4  # relative; between an image alone and in company


def import_module(
    architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> TrainedWeights:
    """Importer ``target:module``: a factory, and one file of weights or none (then the factory's own are kept)."""
    declared = ImageConvention.of(settings)
    if not declared.factory:
        raise MibenchError("import.factory is wanted: package.module:build")
    if len(files) > 1:
        raise MibenchError(f"an own model has one file of weights, got {len(files)}")
    size = _size(declared, None)
    network = ModuleNetwork(
        declared.classes,
        factory=declared.factory,
        arguments=declared.arguments,
        channel_order=declared.channel_order,
    )
    remarks: Sequence[str] = ()
    if files:
        with foreign(network.called, "when weights are loaded"):
            remarks = fill(network.network, files[0])
    check_numbers(network.network, files[0].file if files else declared.factory)
    network.eval()
    image = declared.image(size)
    roles, notes = _probe(network, declared, image)
    notes = [*remarks, *notes]
    features = declared.features
    if not features and "features" not in roles:
        linear = last_linear(network.network, declared.classes)
        features = f"input:{linear}" if linear else ""
        if not linear:
            notes.append("no layer gives features (no last nn.Linear): the logits stand for them; see --features")
    if features:
        network.watch(features)
        if network(_noise(image)).features.shape[0] != PROBE:
            raise MibenchError(f"--features {features}: the first axis there is not the batch")
    arguments = {
        "factory": declared.factory,
        "arguments": dict(declared.arguments),
        "code": code_of(declared.factory),
        "features": features,
    }
    weights = {name: _stored(tensor) for name, tensor in network.state_dict().items()}
    return _trained(architecture, declared, image, arguments, weights, roles, notes)


def import_onnx(architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]) -> TrainedWeights:
    """Importer ``target:onnx``: one file, whole, as the uint8 tensor ``file``."""
    declared, content = _file_only(files, settings)
    network = OnnxNetwork(declared.classes, bytes=len(content))
    network.file.copy_(content)
    entry = network.entry
    image = declared.image(_size(declared, entry.size))
    return _of_file(architecture, network, declared, image, content)


def import_torchscript(
    architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> TrainedWeights:
    """Importer ``target:torchscript``: one file, whole, as the uint8 tensor ``file``."""
    declared, content = _file_only(files, settings)
    network = TorchScriptNetwork(declared.classes, bytes=len(content))
    network.file.copy_(content)
    return _of_file(architecture, network, declared, declared.image(_size(declared, None)), content)


def _file_only(files: Sequence[WeightsContents], settings: Mapping[str, object]) -> tuple[ImageConvention, Tensor]:
    declared = ImageConvention.of(settings)
    if declared.factory or declared.arguments or declared.features:
        raise MibenchError("--features and --set model.* belong to a model in code; a file has its layers sealed")
    if len(files) != 1 or "file" not in files[0].tensors:
        raise MibenchError("an own model in a file is one file", cure="drop --weights, its weights are inside")
    return declared, files[0].tensors["file"]


def _of_file(
    architecture: str, network: OwnNetwork, declared: ImageConvention, image: ImageSpec, content: Tensor
) -> TrainedWeights:
    network.channel_order = declared.channel_order
    roles, notes = _probe(network.eval(), declared, image)
    arguments: dict[str, object] = {"bytes": len(content)}
    return _trained(architecture, declared, image, arguments, {"file": content}, roles, notes)


def _trained(
    architecture: str,
    declared: ImageConvention,
    image: ImageSpec,
    arguments: Mapping[str, object],
    weights: Mapping[str, Tensor],
    roles: Sequence[str],
    notes: Sequence[str],
) -> TrainedWeights:
    return TrainedWeights(
        architecture=architecture,
        arguments={**arguments, "outputs": list(roles), "channel_order": declared.channel_order},
        image=image,
        weights=weights,
        classes=declared.classes,
        notes=tuple(notes),
    )


def _size(declared: ImageConvention, fixed: int | None) -> int:
    if fixed is not None and declared.size not in (None, fixed):
        raise MibenchError(f"--size {declared.size}: the model's file says {fixed}", cure="leave --size out")
    size = fixed or declared.size
    if size is None:
        raise MibenchError("the model does not say which images it takes", cure="add --size with their side in pixels")
    return size


def _noise(image: ImageSpec) -> Tensor:
    """Normalised images of noise ``(PROBE, 3, size, size)``, the same in every run."""
    pixels = torch.rand(PROBE, 3, image.size, image.size, generator=stream(0, "own model", "probe"))
    return (pixels - torch.tensor(image.mean).view(1, -1, 1, 1)) / torch.tensor(image.std).view(1, -1, 1, 1)


@torch.no_grad()
def _probe(network: OwnNetwork, declared: ImageConvention, image: ImageSpec) -> tuple[tuple[str, ...], list[str]]:
    """Roles of what the model returns, and sentences worth a person's attention."""
    images = _noise(image)
    tensors = _asked(network, images)
    roles = tuple(declared.outputs)
    if roles:
        check_roles(roles, tensors, declared.classes)
    else:
        roles = recognise(tensors, declared.classes, PROBE)
    network.outputs = roles
    if not all(bool(torch.isfinite(tensors[i]).all()) for i, role in enumerate(roles) if role != "other"):
        raise MibenchError("the model gives numbers that are not finite for images of noise; are its weights whole?")
    logits = network(images).logits
    notes = []
    if "probabilities" in roles:
        notes.append(
            "the model returns probabilities: their logarithm serves as logits, whose gradient fades as they near 1"
        )
    if not torch.equal(logits, network(images).logits):
        notes.append("the same images give other scores each time (a defence, or dropout left on)")
    else:
        alone = torch.cat([network(images[i : i + 1]).logits for i in range(PROBE)])
        if not torch.allclose(alone, logits, rtol=SAME, atol=SAME * float(logits.abs().max())):
            notes.append("scores of an image depend on its batch: was the model exported in training mode?")
    return roles, notes


def _asked(network: OwnNetwork, images: Tensor) -> list[Tensor]:
    try:
        return network.asked(images)
    except MibenchError:
        raise
    except Exception as error:  # a person's own code may raise anything; the line says what it was
        raise MibenchError(
            f"the model cannot run on images {tuple(images.shape)}: {worded(error)}{likely(error)}"
        ) from error


def _stored(tensor: Tensor) -> Tensor:
    """A copy that shares nothing (tied weights may not share memory in a safetensors file)."""
    kept = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return kept.float() if kept.is_floating_point() else kept
