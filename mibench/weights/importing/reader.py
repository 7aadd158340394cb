"""From any file to :class:`~mibench.api.WeightsContents`, without running anything from it."""

from __future__ import annotations

import importlib
import mmap
import re
import struct
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mibench.api import WeightsContents
from mibench.errors import MibenchError
from mibench.system.files import file_sha256

from .claimed_sizes import Findings
from .containers import AVERAGED, MOST_PREFIXES, Unpacked, check_names, common_prefix, plain_only, strip, unpack
from .pickle_inspector import follow
from .text import listed, shown, size
from .torch_files import SAVE_AGAIN, broken, open_torch, refuse
from .weights_format import AGAIN, Format, recognise, refuse_folder

STYLEGAN = b"torch_utils.persistence"  # the module that StyleGAN2-ADA's pickles name
STYLEGAN_TENSORFLOW = b"dnnlib.tflib"
LOOKED_AT = 1 << 22  # bytes of a pickle searched for these


def read_weights(path: Path, *, sha256: str | None = None) -> WeightsContents:
    """Read a file of weights: safetensors, ``torch.save`` old or new, or a pickle of StyleGAN2-ADA.

    Args:
        path: the file; ``FILE::NAME`` for one of several sets of weights in it.
        sha256: what it must hash to; checked before anything else is read.

    Raises:
        MibenchError: not weights, damaged, hostile, or another file than the hash says; one line with the cure.
    """
    path, choice = _chosen(path)
    if path.is_dir():
        refuse_folder(path)
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise MibenchError(f"{path} is no ordinary file", cure="name a file of weights")
    kind = recognise(path)
    actual = file_sha256(path)
    if sha256 is not None:
        check_sha256(path, actual, sha256)
    if choice is not None and kind not in (Format.TORCH_ZIP, Format.TORCH_LEGACY):
        raise MibenchError(f"{path} holds one set of weights", cure=f"leave out ::{shown(choice)}")
    if kind is Format.PICKLE:
        return _read_pickle(path)
    unpacked = _read_safetensors(path) if kind is Format.SAFETENSORS else _read_torch(path, kind, choice)
    averaged = {} if unpacked.averaged is None else {AVERAGED: int(unpacked.averaged)}
    return WeightsContents(
        file=path.name,
        sha256=actual,
        container=unpacked.container,
        tensors=unpacked.tensors,
        stripped=unpacked.stripped,
        extras={**unpacked.extras, **averaged},
        others=unpacked.others,
    )


def unwrapped(file: WeightsContents) -> WeightsContents:
    """A file without the beginning that all of its keys share; the same where there is none."""
    prefix = common_prefix(file.tensors) if len(file.stripped) < MOST_PREFIXES else ""
    if not prefix:
        return file
    tensors = {key.removeprefix(prefix): tensor for key, tensor in file.tensors.items()}
    return replace(file, tensors=tensors, stripped=(*file.stripped, prefix))


def _chosen(path: Path) -> tuple[Path, str | None]:
    """``w.pth::ema`` as a file and the place of weights in it."""
    name, colons, choice = path.name.rpartition("::")
    if not colons or not name or path.exists():
        return path, None
    return path.with_name(name), choice


def _read_torch(path: Path, kind: Format, choice: str | None) -> Unpacked[Tensor]:
    with open_torch(path, kind) as saved:
        unpacked = unpack(saved.content, str(path), choice)
        return Unpacked(
            container=unpacked.container,
            tensors={key: saved.tensor(declared) for key, declared in unpacked.tensors.items()},
            stripped=unpacked.stripped,
            averaged=None if unpacked.averaged is None else _counter(saved.tensor(unpacked.averaged)),
            others=unpacked.others,
            extras=unpacked.extras,
        )


def _counter(tensor: Tensor) -> Tensor:
    """The count of an averaged model, 0 where it is no number."""
    is_finite_scalar = tensor.numel() == 1 and not tensor.is_complex() and bool(tensor.isfinite().all())
    return tensor.reshape(()) if is_finite_scalar else torch.zeros(())


def check_sha256(path: Path, actual: str, wanted: str) -> None:
    """Refuse another file than the one asked for."""
    wanted = wanted.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise MibenchError(f"--sha256 takes 64 hexadecimal digits, got {shown(wanted)!r}")
    if actual != wanted:
        raise MibenchError(f"{path} is another file: its sha256 is {actual}, expected {wanted}", cure=AGAIN)


def _read_safetensors(path: Path) -> Unpacked[Tensor]:
    total = path.stat().st_size
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    if header + 8 > total:
        raise MibenchError(
            f"{path} is cut off or damaged: its header claims {size(header)}, the file has {size(total)}", cure=AGAIN
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata: dict[str, object] = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise MibenchError(f"{path} is not a whole safetensors file ({shown(error)})", cure=AGAIN) from error
    if not tensors:
        raise MibenchError(f"{path} holds no weights", cure="name the file of the network")
    check_names(tensors, str(path))
    tensors, stripped, averaged = strip(tensors)
    return Unpacked(
        container="safetensors",
        tensors=tensors,
        stripped=stripped,
        averaged=None if averaged is None else _counter(averaged),
        extras=plain_only(metadata),
    )


def _read_pickle(path: Path) -> WeightsContents:
    """A pickle that torch did not write: StyleGAN2-ADA's is read, anything else refused by what it asks for."""
    findings = Findings()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        stylegan = content.find(STYLEGAN, 0, LOOKED_AT) >= 0
        tensorflow = content.find(STYLEGAN_TENSORFLOW, 0, LOOKED_AT) >= 0
        if not stylegan:
            follow(content, findings)
        head = content[:12]
    if stylegan:
        reader = importlib.import_module("mibench.weights.importing.stylegan_pickle")
        contents: WeightsContents = reader.read_stylegan_pickle(path)
        return contents
    if tensorflow:
        raise MibenchError(
            f"{path} is a StyleGAN of TensorFlow", cure="take the PyTorch release of it (stylegan2-ada-pytorch)"
        )
    if not findings.foreign and findings.failure is not None and head[:1] != b"\x80":
        raise MibenchError(
            f"{path} is no file of weights (it begins with {head!r})", cure="name the one torch.save wrote"
        )
    refuse(path, findings)
    if findings.failure is not None:
        raise broken(path, findings)
    asks = f" (it asks for {listed(findings.harmless)})" if findings.harmless else ""
    raise MibenchError(f"{path} is a plain pickle without weights of torch{asks}", cure=SAVE_AGAIN)
