"""Importer of the released GANs of GMI and KEDMI: two files, told apart by their keys, in either order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mibench.api import ImageSpec, MibenchError, TrainedWeights, WeightsContents

from .networks import SIZE

MOST = 100_000  # classes, latents, channels

PARTS = {  # a key that only this network has -> what it is
    "l2_5.3.weight": "generator",
    "ls.0.weight": "critic of GMI",
    "mbd1.T": "critic of KEDMI",
}
CRITICS = {"gmi": "critic of GMI", "kedmi": "critic of KEDMI"}
RELEASED = {"gmi": "celeba_G.tar celeba_D.tar", "kedmi": "improved_celeba_G.tar improved_celeba_D.tar"}


def import_gan(architecture: str, files: Sequence[WeightsContents], settings: Mapping[str, object]) -> TrainedWeights:
    """Weights ``G.*`` and ``D.*``, and the arguments that build the prior of :mod:`mibench.attacks.priors.dcgan.prior`.

    Raises:
        MibenchError: not a generator and the critic of this GAN.
    """
    for name in settings:
        raise MibenchError(f"unknown setting 'import.{name}': {architecture} has none")
    parts: dict[str, WeightsContents] = {}
    for file in files:
        part = part_of(file.tensors)
        if part is None or part in parts:
            what = "neither a generator nor a critic" if part is None else f"a second {part}"
            raise MibenchError(f"{file.file} is {what}", cure=f"{_cure(architecture)}")
        parts[part] = file
    needed = ("generator", CRITICS[architecture])
    for part in needed:
        if part not in parts:
            raise MibenchError(f"the {part} is missing, given: {', '.join(parts)}", cure=f"{_cure(architecture)}")
    if len(parts) > len(needed):
        raise MibenchError(f"{len(parts)} files for {architecture}", cure=f"{_cure(architecture)}")
    generator, critic = (parts[part].tensors for part in needed)
    weights = {
        f"{prefix}.{key}": tensor
        for prefix, tensors in (("G", generator), ("D", critic))
        for key, tensor in tensors.items()
    }
    return TrainedWeights(
        architecture=architecture,
        arguments=_arguments(architecture, generator, critic),
        image=ImageSpec(size=SIZE),
        weights=weights,
    )


def part_of(tensors: Mapping[str, Tensor]) -> str | None:
    """``generator``, ``critic of GMI``, ``critic of KEDMI``, or None."""
    return next((part for key, part in PARTS.items() if key in tensors), None)


def _arguments(architecture: str, generator: Mapping[str, Tensor], critic: Mapping[str, Tensor]) -> dict[str, object]:
    """What the shapes say, where they agree; else the published values, and the strict loading refuses.

    A length that no other one confirms is not believed: networks are built by it.
    """
    (channels,) = _shape(generator, "l2_5.3.weight", (None, 3, 5, 5), (64,))
    (z_dim,) = _shape(generator, "l1.0.weight", (8 * channels * 16, None), (100,))
    arguments: dict[str, object] = {"z_dim": z_dim, "width": channels / 64}
    if architecture == "kedmi":
        flat = 4 * channels * 16
        kernels, dimensions = _shape(critic, "mbd1.T", (flat, None, None), (64, 50))
        (classes,) = _shape(critic, "fc_layer.weight", (None, flat + kernels), (1000,))
        arguments |= {"kernels": kernels, "dimensions": dimensions, "num_classes": classes}
    return arguments


def _shape(
    tensors: Mapping[str, Tensor], key: str, expected: tuple[int | None, ...], published: tuple[int, ...]
) -> tuple[int, ...]:
    """The lengths where ``expected`` has None, if the rest agrees and none is absurd; else the published ones."""
    shape = tuple(tensors[key].shape) if key in tensors else ()
    if len(shape) != len(expected) or any(e not in (None, s) for s, e in zip(shape, expected, strict=True)):
        return published
    free = tuple(s for s, e in zip(shape, expected, strict=True) if e is None)
    return free if all(0 < length <= MOST for length in free) else published


def _cure(architecture: str) -> str:
    return f"give the two files of one GAN, such as {RELEASED[architecture]}"
