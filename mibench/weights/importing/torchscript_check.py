"""TorchScript programs: what torch would trust is checked before it opens one.

``torch.jit.load`` runs nothing of Python, but the pickles in a program can ask it for gigabytes by a wrong length. They
are followed without effect first, as those of weights are.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from mibench.errors import MibenchError

from .claimed_sizes import LARGEST, Findings, Storage
from .pickle_inspector import InertUnpickler, StorageType, follow
from .text import shown, size
from .torch_files import BROKEN_ZIP, broken, records

PICKLES = (".pkl", ".debug_pkl")  # endings of records that torch may follow when a program is opened, or fails
MOST_UNPACKED, SPARE = 20, 1 << 26  # code is compressed: so many times the file, and so many bytes


class _Reader(InertUnpickler):
    """Programs have storages of types that weights have not (quantised ones), and names of their own."""

    def persistent_load(self, identifier: object) -> object:
        if type(identifier) is tuple and len(identifier) > 1 and not isinstance(identifier[1], StorageType):
            return Storage("", torch.uint8, LARGEST)
        return super().persistent_load(identifier)


def check_program(path: Path) -> None:
    """Refuse a TorchScript file that asks for more than it holds.

    Raises:
        MibenchError: damaged, or made to exhaust memory; one line.
    """
    total = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            held = records(path, archive)
            claimed = sum(entry.file_size for entry in held.values())
            if claimed > MOST_UNPACKED * total + SPARE:
                raise MibenchError(
                    f"{path} claims {size(claimed)} in a file of {size(total)}: a zip bomb; not opened",
                    cure="get the file from its authors",
                )
            for name in held:
                if name.lower().endswith(PICKLES):
                    findings = Findings()
                    follow(io.BytesIO(archive.read(name)), findings, _Reader)
                    _check(path, findings, total)
    except BROKEN_ZIP as error:
        raise MibenchError(f"{path} is a damaged TorchScript file ({shown(error)})", cure="save it again") from error


def _check(path: Path, findings: Findings, total: int) -> None:
    if findings.failure is not None:
        raise broken(path, findings)
    claimed = sum(storage.bytes for storage in findings.storages.values())
    problems = [problem for tensor in findings.tensors if (problem := tensor.problem(max(total, 1 << 24)))]
    if claimed > total:
        raise MibenchError(f"{path} is damaged: it claims tensors of {size(claimed)} and has {size(total)}")
    if problems:
        raise MibenchError(f"{path} is damaged: a tensor {problems[0]}", cure="save it again")
