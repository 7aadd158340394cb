"""Reads what ``torch.save`` wrote, new (zip) or old (a row of pickles), after its claims were checked on paper.

``torch.load(weights_only=True)`` runs no code from a file, but it believes the sizes in it: a kilobyte can ask for a
terabyte, and a tensor can be declared larger than its storage. So the pickle is followed without effect first
(:mod:`mibench.importing.inert`), its claims are held against the file, and only then does torch read it.
"""

from __future__ import annotations

import io
import mmap
import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mibench.errors import MibenchError

from .formats import AGAIN, Format
from .inert import SYSTEM, Findings, follow
from .wording import listed, shown, size

SAVE_AGAIN = "load it where you trust it and save its state_dict() with torch.save or safetensors"


def read_torch(path: Path, kind: Format) -> Any:
    """The object in the file, tensors on the CPU.

    Raises:
        MibenchError: it asks for code, claims what it does not hold, is cut off, or was saved as a whole model.
    """
    if kind is Format.TORCH_ZIP:
        _check_zip(path)
    else:
        _check_legacy(path)
    # PPA's logs of a training hold NumPy numbers; these names make numbers and nothing else.
    scalar = np.float64(0).__reduce__()[0]
    numbers: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    numbers += [np.dtype, *(type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "u1", "?"))]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(numbers):
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read raises besides
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise MibenchError(f"{path} was saved in a pickle protocol other than 2; {SAVE_AGAIN}") from error
        raise MibenchError(f"torch refuses {path}: {_first_sentence(error)}; {SAVE_AGAIN}") from error
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, AssertionError) as error:
        raise MibenchError(f"{path} is damaged: {_first_sentence(error)}; {AGAIN}") from error


def refuse(path: Path, findings: Findings) -> None:
    """Raise where the pickle asked for more than weights need. Nothing of it has run, or will."""
    names = findings.worst_first()
    if findings.whole_model:
        own = [name for name in names if not name.startswith("torch.")] or names
        raise MibenchError(
            f"{path} holds a whole network as an object, which needs the code of its author ({listed(own)}), not its "
            f"weights; {SAVE_AGAIN}"
        )
    if names:
        acts = names[0].partition(".")[0] in SYSTEM
        cure = "load it nowhere, and get the weights from their authors" if acts else SAVE_AGAIN
        raise MibenchError(
            f"{path} asks for {listed(names)}, which weights have no use for, so nothing of it was run; {cure}"
        )


def _check_zip(path: Path) -> None:
    total = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            held = {entry.filename: entry.file_size for entry in entries}
            # torch looks records up in either case, and would read another one than was checked here
            if len({name.lower() for name in held}) < len(entries):
                raise MibenchError(f"{path} holds two records of one name, which torch never writes; {AGAIN}")
            if sum(held.values()) > total:
                raise MibenchError(
                    f"{path} claims {size(sum(held.values()))} in a file of {size(total)}: a zip bomb, or packed again "
                    "by another program (torch compresses nothing); get the file as torch.save wrote it"
                )
            pickled = next(name for name in held if name.partition("/")[2] == "data.pkl")
            content = archive.read(pickled)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise MibenchError(f"{path} is damaged: {_first_sentence(error)}; {AGAIN}") from error
    findings = Findings()
    follow(io.BytesIO(content), findings)
    _refuse_claims(path, findings, total)
    folder = pickled.partition("/")[0]
    for key, storage in findings.storages.items():
        there = held.get(f"{folder}/data/{key}")
        if there != storage.bytes:
            raise MibenchError(
                f"{path} is damaged: storage {shown(key)} is declared with {storage.bytes:,} bytes and holds "
                f"{'none' if there is None else f'{there:,}'}; {AGAIN}"
            )


def _check_legacy(path: Path) -> None:
    """Four pickles (magic, version, machine, object), the list of storage keys, then each storage: length and data."""
    findings = Findings()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(4):
            if findings.failure is None:
                follow(content, findings)
        keys = follow(content, findings) if findings.failure is None else None
        left = len(content) - content.tell()
    _refuse_claims(path, findings, path.stat().st_size)
    stored = [findings.storages.get(str(key)) for key in keys] if isinstance(keys, list) else [None]
    needed = 0
    for storage in stored:
        if storage is None:
            raise MibenchError(f"{path} is damaged: its list of storages does not fit its tensors; {AGAIN}")
        needed += 8 + storage.bytes
    if needed > left:
        raise MibenchError(f"{path} is cut off: its tensors take {size(needed)}, {size(left)} are left; {AGAIN}")


def _refuse_claims(path: Path, findings: Findings, total: int) -> None:
    """Names first: what a file asks for matters more than that it is damaged too."""
    refuse(path, findings)
    claimed = sum(storage.bytes for storage in findings.storages.values())
    if claimed > total:
        raise MibenchError(
            f"{path} claims tensors of {size(claimed)} and has {size(total)}: cut off, or made to exhaust memory; "
            f"{AGAIN}"
        )
    if findings.failure is not None:
        raise MibenchError(f"{path} is cut off or damaged ({shown(findings.failure)}); {AGAIN}")
    for tensor in findings.tensors:
        if problem := tensor.problem(total):
            raise MibenchError(f"{path} is damaged: a tensor {problem}; {AGAIN}")


def _first_sentence(error: Exception) -> str:
    """torch's errors run over many lines; the first one says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line for line in lines if "GLOBAL" in line or "operand" in line]
    return shown((marked or lines or [type(error).__name__])[0].partition(". ")[0])
