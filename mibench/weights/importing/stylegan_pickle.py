"""Reads the pickles of StyleGAN2-ADA (PyTorch) without running anything from them.

Such a file is a pickle of ``{"G": ..., "D": ..., "G_ema": ..., ...}``. Each network in it is a call of
``torch_utils.persistence._reconstruct_persistent_obj`` on ``{"module_src": <Python source>, "class_name": ...,
"state": <the module's __dict__>}``, and that function executes the source. Here it is a record: the source is dropped
unread, the state is kept (:mod:`mibench.weights.importing.stylegan_records`). Of the networks that are wanted every
tensor is then checked against its storage, and made of the storage's bytes.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mibench.api import WeightsContents
from mibench.errors import MibenchError
from mibench.system.file_type import TORCH_NUMBER
from mibench.system.files import file_sha256

from .claimed_sizes import DeclaredTensor, Findings, Storage
from .containers import plain_only
from .pickle_inspector import BROKEN, follow
from .stylegan_records import Claim, Network, StyleGANReader
from .text import listed, shown, size
from .torch_files import broken, refuse
from .weights_format import AGAIN

LARGEST = 4 << 30  # bytes; the largest released file has 0.4 GB
DEEPEST = 16  # modules in modules; released networks have four
MOST_MODULES = 10_000  # released networks have two hundred
MOST_DIMENSIONS = 8
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8)


def read_stylegan_pickle(path: Path) -> WeightsContents:
    """The averaged generator of a file, and its discriminator where there is one.

    Args:
        path: a ``.pkl`` of StyleGAN2-ADA for PyTorch.

    Returns:
        Tensors ``G.mapping.*``, ``G.synthesis.*`` (of ``G_ema``) and ``D.*``, bit for bit those in the file. Extras:
        ``generator`` and ``discriminator`` hold the keyword arguments that built them, ``generator_conv_clamp`` the
        bound that all layers of the generator have, ``training_set`` the name of the data set where the file says it.

    Raises:
        MibenchError: the file asks for more than such files do, is damaged, or is another kind of file; one line.
    """
    try:
        total = path.stat().st_size
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}", cure="name a file of weights") from error
    if not total:
        raise MibenchError(f"{path} is empty", cure=AGAIN)
    if total > LARGEST:
        raise MibenchError(
            f"{path} has {size(total)}, no StyleGAN2 has more than {size(LARGEST)}", cure="name the right file"
        )
    networks = _networks(path, _follow(path))
    tensors: dict[str, Tensor] = {}
    extras: dict[str, object] = {}
    maker = _Maker(path, total)
    for name, prefix, kind in (("G_ema", "G.", "generator"), ("D", "D.", "discriminator")):
        network = networks.get(name)
        if network is None:
            continue
        try:
            tensors |= {prefix + key: maker.tensor(claim) for key, claim in _walk(network)}
            extras[kind] = plain_only(_mapping_in(network.state, "_init_kwargs"))
            if kind == "generator":  # not every release says it: defaults changed
                clamps = {module.state["conv_clamp"] for _, module in _modules(network) if "conv_clamp" in module.state}
                extras |= plain_only({"generator_conv_clamp": clamps.pop()}) if len(clamps) == 1 else {}
        except (*BROKEN, RuntimeError) as error:
            raise MibenchError(f"{path} is damaged: its {kind}: {shown(error)}", cure=AGAIN) from error
    described = networks.get("training_set_kwargs")
    if isinstance(described, dict) and isinstance(described.get("path"), str):
        extras["training_set"] = shown(Path(described["path"].replace("\\", "/")).name)  # no folders of other people
    return WeightsContents(
        file=path.name, sha256=file_sha256(path), container="stylegan2-ada", tensors=tensors, extras=extras
    )


def _follow(path: Path) -> object:
    """The object in the file, records in place of networks and tensors."""
    findings = Findings()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content_of_pickle = follow(content, findings, StyleGANReader)
    if any(name.startswith("dnnlib.tflib.") for name in findings.foreign):
        raise _legacy(path)
    refuse(path, findings)
    if findings.failure is not None:
        raise broken(path, findings)
    return content_of_pickle


def _legacy(path: Path) -> MibenchError:
    return MibenchError(
        f"{path} is a StyleGAN of TensorFlow, which cannot be read safely",
        cure="take the publisher's file for PyTorch (stylegan2-ada-pytorch)",
    )


def _networks(path: Path, unpickled: object) -> dict[Any, Any]:
    """What the file holds by name, the generator among it."""
    if isinstance(unpickled, tuple) and len(unpickled) == 3:
        raise _legacy(path)
    if not isinstance(unpickled, dict) or not isinstance(unpickled.get("G_ema"), Network):
        held = listed(unpickled) or "nothing" if isinstance(unpickled, dict) else f"a {type(unpickled).__name__}"
        raise MibenchError(
            f"{path} holds {held} and no G_ema, the averaged generator", cure="name a file of StyleGAN2-ADA"
        )
    if not isinstance(unpickled.get("D"), Network | None):
        raise MibenchError(f"{path} is damaged: its D is no network", cure=AGAIN)
    return unpickled


def _mapping_in(state: Mapping[object, object], name: str) -> dict[object, object]:
    value = state.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a mapping")
    return value


def _modules(network: Network) -> Iterator[tuple[str, Network]]:
    """A network and all networks in it with their prefixes, in the order of ``modules()``."""
    waiting = [("", network, 0)]
    seen = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        yield prefix, module
        inner = []
        for name, child in _mapping_in(module.state, "_modules").items():
            if child is None:
                continue
            if not isinstance(name, str) or not isinstance(child, Network):
                raise ValueError("_modules holds something that is not a network")
            inner.append((f"{prefix}{name}.", child, depth + 1))
        waiting += reversed(inner)
        seen += 1 + len(inner)
        if seen > MOST_MODULES or depth > DEEPEST:
            raise ValueError("its modules have no end")


def _walk(network: Network) -> Iterator[tuple[str, Claim]]:
    """Dotted names and tensors in the order of ``state_dict()``."""
    for prefix, module in _modules(network):
        skipped = module.state.get("_non_persistent_buffers_set")
        skipped = skipped if isinstance(skipped, list | set) else []
        for kind in ("_parameters", "_buffers"):
            for name, claim in _mapping_in(module.state, kind).items():
                if claim is None or name in skipped:
                    continue
                if not isinstance(name, str) or not isinstance(claim, Claim):
                    raise ValueError(f"{kind} holds something that is not a tensor")
                yield prefix + name, claim


class _Maker:
    """Makes tensors, as long as they do not take more than the file can hold: each has its own storage in it."""

    def __init__(self, path: Path, total: int) -> None:
        self.path = path
        self.left = total

    def tensor(self, claim: Claim) -> Tensor:
        """The tensor of a claim, in memory of its own.

        Raises:
            MibenchError: the storage asks for code.
            ValueError, RuntimeError: the claim is not true.
        """
        content = claim.blob.content
        self.left -= len(content)
        if self.left < 0:
            raise ValueError("its tensors claim more than the file holds")
        declared = self._declared(content)
        problem = DeclaredTensor(declared, claim.offset, claim.shape, claim.stride).problem(declared.bytes)
        if problem or len(claim.shape) > MOST_DIMENSIONS:
            raise ValueError(f"a tensor {problem or 'of too many dimensions'}")
        if declared.dtype not in DTYPES:
            raise ValueError("a storage of an unknown type")
        raw = torch.empty(declared.bytes, dtype=torch.uint8)
        raw.numpy()[:] = np.frombuffer(content, np.uint8, offset=len(content) - declared.bytes)
        whole = raw.view(declared.dtype)
        return whole.as_strided(claim.shape, claim.stride, claim.offset).clone(memory_format=torch.contiguous_format)

    def _declared(self, content: bytes) -> Storage:
        """What an old ``torch.save`` of one storage claims: four pickles, the list of keys, the length, the data."""
        if not content[2:].startswith(TORCH_NUMBER):
            raise ValueError("a storage in another format than torch.save's old one")
        findings = Findings()
        file = io.BytesIO(content)
        parts = [follow(file, findings) for _ in range(5) if findings.failure is None]
        refuse(self.path, findings)
        if findings.failure is not None or len(parts) < 5:
            raise ValueError(f"a storage: {findings.failure}")
        declared, keys = parts[3:]
        if not isinstance(declared, Storage) or declared.start or keys != [declared.key]:
            raise ValueError("a storage that is none")
        length = file.read(8)
        if len(content) - file.tell() != declared.bytes:
            raise ValueError("a storage that is cut off")
        if struct.unpack("<q", length) != (declared.count,):
            raise ValueError("a storage of another length than declared")
        return declared
