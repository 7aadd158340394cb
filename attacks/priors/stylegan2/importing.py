"""Importer of released StyleGAN2-ADA networks: arguments from what the file says, else from the shapes in it.

Files: a pickle of the release (keys ``G.*`` and ``D.*``, with the keyword arguments that built the networks), or a
converted file that holds the generator's state dict alone (``mapping.*``, ``synthesis.*``), with or without a
``config`` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace

import torch
from torch import Tensor

from mibench.api import (
    ImageSpec,
    MibenchError,
    MisfitError,
    StateDictMismatch,
    TrainedWeights,
    WeightsContents,
    mismatch_of,
)
from mibench.attacks.priors.loading import read_arguments

from .layers import resampling_filter
from .prior import StyleGAN2Arguments

RESOLUTIONS = tuple(2**power for power in range(3, 12))
MOST_CHANNELS, MOST_LAYERS, MOST_DIMENSIONS = 4096, 64, 8192  # released: 512, 8, 512
GROUPS = (1, 2, 4, 8, 16, 32)  # images that the discriminator may compare
RELEASED_CLAMP = 256.0  # of every network that was trained in half precision, as all released ones were
FACES = ("ffhq", "metfaces")  # aligned alike: the face fills the middle
FACE_CROP = 800 / 1024  # PPA's and IF-GMI's crop of them
SETTINGS = ("crop", "conv_clamp", "discriminator")
GENERATOR = ("resolution", "z_dim", "w_dim", "channel_base", "channel_max", "mapping_layers", "conv_clamp")
FIXED = {  # what our networks are; a file that says otherwise is another network
    "activation": "lrelu",
    "lr_multiplier": 0.01,
    "resample_filter": [1, 3, 3, 1],
    "use_noise": True,
    "mbstd_num_channels": 1,
    "img_channels": 3,
}


def import_stylegan2(
    architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]
) -> TrainedWeights:
    """The weights as :class:`~mibench.attacks.priors.stylegan2.prior.StyleGAN2Prior` takes them, and its arguments.

    Args:
        architecture: "stylegan2".
        files: one.
        settings: ``crop`` (pixels or null; the crop of the literature for FFHQ and MetFaces, else none),
            ``conv_clamp`` (for files that do not say it), ``discriminator`` (false leaves it out).

    Raises:
        MibenchError: another architecture, or a network with classes.
        MisfitError: keys or shapes that are not those of a StyleGAN2 of these arguments.
    """
    for name in settings:
        if name not in SETTINGS:
            raise MibenchError(f"unknown setting 'import.{name}' (known: {', '.join(SETTINGS)})")
    if len(files) != 1:
        raise MibenchError(
            f"a {architecture} comes in one file, got {len(files)}", cure="name the one with the generator"
        )
    (file,) = files
    weights = _ours(file)
    _check_kind(file.file, weights)
    keep_discriminator = settings.get("discriminator", True)
    if not isinstance(keep_discriminator, bool):
        raise MibenchError(f"import.discriminator must be true or false, got {keep_discriminator!r}")
    if not keep_discriminator:
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("D.")}
    kwargs = _flattened(file.extras.get("generator", file.extras.get("config")))
    _check_kwargs(file.file, kwargs)
    arguments, notes = _generator(file, weights, kwargs, settings)
    if any(key.startswith("D.") for key in weights):
        arguments = _with_discriminator(file, weights, arguments)
    else:
        notes.append("no discriminator: attacks run without realism")
    crop, about_crop = _crop(file, arguments.resolution, settings)
    arguments = read_arguments(StyleGAN2Arguments, {**asdict(arguments), "crop": crop}, architecture)
    _check_fit(file.file, arguments, weights)
    return TrainedWeights(
        architecture=architecture,
        arguments=_recorded(arguments),
        image=ImageSpec(size=arguments.resolution),
        weights=weights,
        notes=(*notes, about_crop),
    )


def _recorded(arguments: StyleGAN2Arguments) -> dict[str, object]:
    """What a card says: what builds the generator, the crop, and of the discriminator what is not the default."""
    always, defaults = (*GENERATOR, "crop"), {field.name: field.default for field in fields(arguments)}
    return {name: value for name, value in asdict(arguments).items() if name in always or value != defaults[name]}


def _ours(file: WeightsContents) -> dict[str, Tensor]:
    """Keys with ``G.`` or ``D.`` in front."""
    tensors = dict(file.tensors)
    if all(key.startswith(("G.", "D.")) for key in tensors):
        return tensors
    return {f"G.{key}": tensor for key, tensor in tensors.items()}


def _check_kind(name: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse the relatives of StyleGAN2, each by its own keys."""
    cure = "import a StyleGAN2-ADA network"
    relatives = {
        r"G\.synthesis\.(input\.|L\d+_)": "a StyleGAN3, which has other layers",
        r"G\.(style|convs)\.\d+\.": "a StyleGAN2 of another code base (layers style.*, convs.*), whose weights differ",
        r"[GD]\.mapping\.embed": "conditional: it makes images of a given class, and attacks have no class to give",
    }
    for pattern, what in relatives.items():
        if any(re.match(pattern, key) for key in weights):
            raise MibenchError(f"{name} is {what}", cure=cure)
    if "G.synthesis.b4.const" not in weights or "G.mapping.fc0.weight" not in weights:
        raise MibenchError(f"{name} holds no generator of StyleGAN2 (no mapping.fc0, no synthesis.b4.const)", cure=cure)


def _flattened(kwargs: object) -> dict[str, object]:
    """Keyword arguments by their last names: those of mapping, synthesis, layers and epilogue beside the others."""
    if not isinstance(kwargs, Mapping):
        return {}
    flat: dict[str, object] = dict(kwargs)
    for name in ("mapping_kwargs", "synthesis_kwargs", "block_kwargs", "layer_kwargs", "epilogue_kwargs"):
        if name in flat:
            flat |= _flattened(flat.pop(name))
    return flat


def _check_kwargs(name: str, kwargs: Mapping[str, object], architecture: str = "skip") -> None:
    if kwargs.get("c_dim"):
        raise MibenchError(
            f"{name} is conditional (c_dim {kwargs['c_dim']}): it makes images of a given class, and attacks "
            "have no class to give",
            cure="import a network without",
        )
    for key, value in {**FIXED, "architecture": architecture}.items():
        if kwargs.get(key, value) != value:
            raise MibenchError(
                f"{name} was built with {key}={kwargs[key]!r}, here it is {value!r}", cure="import another one"
            )


def _generator(
    file: WeightsContents, weights: Mapping[str, Tensor], kwargs: Mapping[str, object], settings: Mapping[str, object]
) -> tuple[StyleGAN2Arguments, list[str]]:
    """Arguments of the generator, and sentences for the card."""

    def whole(name: str, from_shapes: int, largest: int, *other_names: str) -> int:
        stated = next((kwargs[key] for key in (name, *other_names) if kwargs.get(key) is not None), None)
        return _whole(file.file, name, stated, from_shapes, largest)

    resolution = whole("img_resolution", _resolution(weights, "G.synthesis"), 2048, "resolution")
    if resolution not in RESOLUTIONS:
        raise MibenchError(f"{file.file} makes images of {resolution} pixels, which is no power of two from 8 to 2048")
    base, widest = _widths(weights, "G.synthesis.b{}.conv1.weight", resolution)
    layers = sum(bool(re.fullmatch(r"G\.mapping\.fc\d+\.weight", key)) for key in weights)
    shape = weights["G.mapping.fc0.weight"].shape
    w_dim, z_dim = (int(shape[0]), int(shape[1])) if len(shape) == 2 else (0, 0)
    clamp, notes = _clamp(file, kwargs, settings)
    arguments = StyleGAN2Arguments(
        resolution=resolution,
        z_dim=whole("z_dim", z_dim, MOST_DIMENSIONS),
        w_dim=whole("w_dim", w_dim, MOST_DIMENSIONS),
        channel_base=whole("channel_base", base, MOST_CHANNELS * resolution),
        channel_max=whole("channel_max", widest, MOST_CHANNELS),
        mapping_layers=whole("mapping_layers", layers, MOST_LAYERS, "num_layers"),
        conv_clamp=clamp,
    )
    return arguments, notes


def _clamp(
    file: WeightsContents, kwargs: Mapping[str, object], settings: Mapping[str, object]
) -> tuple[float | None, list[str]]:
    """The bound of activations, which no shape tells, and a sentence for the card where it is assumed."""
    notes: list[str] = []
    value: object
    if "conv_clamp" in settings:
        value = settings["conv_clamp"]
    elif "generator_conv_clamp" in file.extras:
        value = file.extras["generator_conv_clamp"]
    elif "conv_clamp" in kwargs:
        value = kwargs["conv_clamp"]
    else:
        value = RELEASED_CLAMP
        notes.append(
            f"the file does not say conv_clamp: {RELEASED_CLAMP:g}, as in released networks (--set import.conv_clamp=)"
        )
    if value is None:
        return None, notes
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise MibenchError(f"{file.file}: conv_clamp must be a positive number or null, got {value!r}")
    return float(value), notes


def _with_discriminator(
    file: WeightsContents, weights: Mapping[str, Tensor], generator: StyleGAN2Arguments
) -> StyleGAN2Arguments:
    """The arguments with what the discriminator has of its own."""
    without = "leave it out with --set import.discriminator=false"
    kwargs = _flattened(file.extras.get("discriminator"))
    _check_kwargs(file.file, kwargs, "resnet")
    size = kwargs.get("img_resolution", generator.resolution)
    if size != generator.resolution:
        raise MibenchError(
            f"{file.file}: the discriminator takes {size!r} pixels, not {generator.resolution}", cure=without
        )
    clamp = kwargs.get("conv_clamp", generator.conv_clamp)
    if clamp != generator.conv_clamp:
        raise MibenchError(f"{file.file}: the discriminator clamps at {clamp!r}, the generator elsewhere", cure=without)
    group = kwargs.get("mbstd_group_size", 4)
    if not isinstance(group, int) or group not in GROUPS:
        raise MibenchError(
            f"{file.file}: the discriminator compares {group!r} images, here one of {GROUPS}", cure=without
        )
    base, widest = _widths(weights, "D.b{}.conv0.weight", generator.resolution)
    base = _whole(file.file, "channel_base", kwargs.get("channel_base"), base, MOST_CHANNELS * generator.resolution)
    widest = _whole(file.file, "channel_max", kwargs.get("channel_max"), widest, MOST_CHANNELS)
    alike = (base, widest) == (generator.channel_base, generator.channel_max)
    return replace(
        generator,
        discriminator_group=group,
        discriminator_base=None if alike else base,
        discriminator_max=None if alike else widest,
    )


def _resolution(weights: Mapping[str, Tensor], network: str) -> int:
    """Pixels of the largest block."""
    blocks = [re.match(rf"{re.escape(network)}\.b(\d{{1,5}})\.", key) for key in weights]
    return max((int(match[1]) for match in blocks if match), default=0)


def _widths(weights: Mapping[str, Tensor], pattern: str, resolution: int) -> tuple[int, int]:
    """``channel_base`` and ``channel_max``: widths are ``min(base // size, max)``."""
    sizes = [2**power for power in range(2, resolution.bit_length())]
    shapes = {size: weights[key].shape for size in sizes if (key := pattern.format(size)) in weights}
    widths = {size: int(shape[0]) for size, shape in shapes.items() if len(shape) == 4}
    widest = max(widths.values(), default=0)
    narrower = [width * size for size, width in widths.items() if width < widest]
    return (narrower[-1] if narrower else widest * resolution), widest


def _whole(file: str, name: str, stated: object, from_shapes: int, largest: int) -> int:
    """A size that the file states, else the one that its shapes show."""
    value = from_shapes if stated is None else stated
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise MibenchError(f"{file}: {name} must be a whole number from 1 to {largest}, got {str(value)[:20]}")
    return value


def _crop(file: WeightsContents, resolution: int, settings: Mapping[str, object]) -> tuple[object, str]:
    """The crop, unchecked, and a sentence about it.

    The file's name tells FFHQ and MetFaces, or the data set that it was trained on does.
    """
    crop: object
    if "crop" in settings:
        crop, why = settings["crop"], "as asked for"
    else:
        hint = f"{file.file} {file.extras.get('training_set', '')}".lower()
        crop = round(resolution * FACE_CROP) if any(name in hint for name in FACES) else None
        why = "PPA's crop of FFHQ and MetFaces" if crop else "none is known for this data set"
    if crop is None:
        return None, f"targets are shown the whole image ({why}; --set prior.crop=N for its middle)"
    return crop, f"targets are shown the middle {crop} of {resolution} pixels ({why}; --set prior.crop=N for another)"


def _check_fit(name: str, arguments: StyleGAN2Arguments, weights: Mapping[str, Tensor]) -> None:
    """Compare keys and shapes on paper: arguments from a file must not make us take memory first."""
    with torch.device("meta"):
        skeleton = torch.nn.ModuleDict({"G": arguments.generator()})
        if any(key.startswith("D.") for key in weights):
            skeleton["D"] = arguments.discriminator()
    if misfit := mismatch_of(skeleton, weights):
        raise MisfitError(
            f"{name} is no prior stylegan2: {misfit.summary()}; likely cause: {_cause(misfit)}. --json lists every key",
            misfit,
        )
    taps = resampling_filter()
    for key, tensor in weights.items():
        if key.endswith("resample_filter") and not torch.allclose(tensor.float(), taps, atol=1e-6):
            raise MibenchError(
                f"{name}: {key} is not the filter [1, 3, 3, 1] of the release", cure="import another network"
            )


def _cause(misfit: StateDictMismatch) -> str:
    differing = [*misfit.missing, *misfit.unexpected]
    if any("mapping.fc" in key for key in differing):
        return "another number of mapping layers than the file says"
    if misfit.missing and all(key.endswith(("noise_const", "noise_strength")) for key in misfit.missing):
        return "a generator without noise"
    if any(".skip." in key for key in misfit.unexpected):
        return "a generator of the residual architecture"
    if misfit.misshapen and not differing:
        return "other widths (channel_base, channel_max) than the file says"
    return "another architecture, or a file that lacks a part"
