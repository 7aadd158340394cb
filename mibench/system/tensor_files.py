"""Safetensors files with facts in their metadata: the same contents give the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.errors import MibenchError
from mibench.system.files import atomic_write
from mibench.system.text_files import parse_json
from mibench.system.text_files import read_json as read_json

if TYPE_CHECKING:
    from torch import Tensor


METADATA_KEY = "mibench"  # one key only: safetensors writes several in an order that changes from run to run


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> str:
    """Write a safetensors file atomically and return its sha256. Equal contents give equal bytes."""
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    memory: set[int] = set()  # safetensors refuses tensors that share theirs
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        stored[name] = own.clone() if own.untyped_storage().data_ptr() in memory else own
        memory.add(own.untyped_storage().data_ptr())
    content = save(stored, metadata={METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)})
    atomic_write(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and metadata of a file written by :func:`write_tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise MibenchError(f"cannot read {path}: {error}", cure="delete it and run the same command again") from error
    try:
        facts = parse_json(metadata.get(METADATA_KEY, "{}"))
    except ValueError as error:
        raise MibenchError(
            f"cannot read {path}: its metadata is not JSON ({error})", cure="delete it and run the same command again"
        ) from error
    return tensors, facts if isinstance(facts, dict) else {}
