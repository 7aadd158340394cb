"""Reads what ``torch.save`` wrote, new (zip) or old (a row of pickles), after its claims were checked on paper.

The pickle is followed without effect (:mod:`mibench.weights.importing.pickle_inspector`), its claims are held against
the file, and the tensors are made of the very bytes that were checked. ``torch.load(weights_only=True)`` is not asked:
it runs no code, but it believes the sizes in a file, sets attributes that a file names, and reads the archive in
another way than the one that was checked.
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import torch
from torch import Tensor

from mibench.errors import MibenchError

from .claimed_sizes import SYSTEM, DeclaredTensor, Findings, Storage
from .pickle_inspector import follow
from .text import listed, shown, size
from .weights_format import AGAIN, Format

SAVE_AGAIN = "load it where you trust it and save its state_dict() with torch.save or safetensors"
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError, struct.error)
AT_ONCE = 1 << 24  # bytes copied at a time
MOST_COPIES, SPARE = (
    16,
    1 << 24,
)  # all tensors together: so many times the file, and so many bytes; tied ones count each


@dataclass(frozen=True)
class Saved:
    """What a file holds, declared tensors in place of tensors, and how they are made."""

    content: object
    tensor: Callable[[DeclaredTensor], Tensor]


@contextmanager
def open_torch(path: Path, kind: Format) -> Iterator[Saved]:
    """The object in the file: plain dicts and lists, :class:`DeclaredTensor` for tensors, which are made on demand.

    Raises:
        MibenchError: it asks for code, claims what it does not hold, is cut off, or was saved as a whole model.
    """
    with path.open("rb") as file:
        try:
            yield _open_zip(path, file) if kind is Format.TORCH_ZIP else _open_legacy(path, file)
        except BROKEN_ZIP as error:
            raise MibenchError(f"{path} is damaged: {_first_line(error)}", cure=AGAIN) from error


def refuse(path: Path, findings: Findings) -> None:
    """Raise where the pickle asked for more than weights need. Nothing of it has run, or will."""
    names = findings.worst_first()
    if findings.whole_model:
        own = [name for name in names if not name.startswith("torch.")] or names
        raise MibenchError(
            f"{path} holds a whole network as an object, which needs the code of its author ({listed(own)}), not "
            "its weights",
            cure=SAVE_AGAIN,
        )
    kinds = [name for name in names if name.startswith("torch._utils._rebuild")]
    if kinds and all(name.startswith("torch.") for name in names):
        raise MibenchError(
            f"{path} holds tensors that are sparse, quantised or of another special kind ({listed(kinds)})",
            cure="save plain tensors",
        )
    if names:
        acts = names[0].partition(".")[0] in SYSTEM
        cure = "load it nowhere, and get the weights from their authors" if acts else SAVE_AGAIN
        raise MibenchError(
            f"{path} asks for {listed(names)}, which weights have no use for, so nothing of it was run", cure=cure
        )


def broken(path: Path, findings: Findings) -> MibenchError:
    """The error for a pickle that could not be followed to its end."""
    why = shown(findings.failure)
    if findings.stopped:
        cause = f"{path} is damaged, or made to exhaust time and memory: {why}"
        return MibenchError(cause, cure="get the weights from their authors")
    return MibenchError(f"{path} is a cut off or damaged pickle ({why})", cure=AGAIN)


class _Maker:
    """Makes tensors of storages, each of which is read once: tensors that share one go on sharing it."""

    def __init__(
        self, path: Path, findings: Findings, fill: Callable[[Storage, memoryview], None], order: str = "little"
    ) -> None:
        total = path.stat().st_size
        self._path = path
        self._whole = findings.storages
        self._left = MOST_COPIES * total + SPARE
        self._fill = fill
        self._order = order
        self._read: dict[str, Tensor] = {}

    def __call__(self, declared: DeclaredTensor) -> Tensor:
        """The tensor.

        Raises:
            MibenchError: all of them together claim many times what the file holds.
        """
        self._left -= declared.bytes
        if self._left < 0:
            raise MibenchError(
                f"{self._path} claims more than {MOST_COPIES} times what it holds, by tensors that share their numbers",
                cure=AGAIN,
            )
        storage = declared.storage
        if storage.key not in self._read:
            self._read[storage.key] = self._bytes(self._whole[storage.key])
        offset = storage.start + declared.offset
        empty = torch.empty(0, dtype=storage.dtype)
        return empty.set_(self._read[storage.key].untyped_storage(), offset, declared.shape, declared.stride)

    def _bytes(self, storage: Storage) -> Tensor:
        raw = torch.empty(storage.bytes, dtype=torch.uint8)
        self._fill(storage, memoryview(raw.numpy().data))
        if storage.dtype is torch.bool:
            raw.clamp_(max=1)  # other bytes are neither true nor false
        elif self._order != sys.byteorder and storage.dtype.itemsize > 1:
            raw.untyped_storage().byteswap(storage.dtype)
        return raw


def records(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The records of an archive, if every reader of archives finds the same ones.

    Raises:
        MibenchError: it holds two of one name, or two archives.
    """
    entries = archive.infolist()
    held = {entry.filename: entry for entry in entries}
    if len({name.lower() for name in held}) < len(entries):  # torch does not tell capitals apart
        raise MibenchError(f"{path} holds two records of one name, which torch never writes", cure=AGAIN)
    if min(entry.header_offset for entry in entries) != 0:
        raise MibenchError(f"{path} holds two archives, or does not begin with its first record", cure=AGAIN)
    return held


def _open_zip(path: Path, file: BinaryIO) -> Saved:
    total = path.stat().st_size
    archive = zipfile.ZipFile(file)
    held = records(path, archive)
    entries = list(held.values())
    claimed = sum(entry.file_size for entry in entries)
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if claimed > total:
        raise MibenchError(
            f"{path} claims {size(claimed)} in a file of {size(total)}: a zip bomb, or packed again by another "
            "program (torch compresses nothing)",
            cure="get the file as torch.save wrote it",
        )
    if packed:
        raise MibenchError(
            f"{path} was packed again by another program: {shown(packed[0])} is compressed, and torch compresses "
            "nothing",
            cure="get the file as torch.save wrote it",
        )
    pickles = [name for name in held if name.partition("/")[2] == "data.pkl"]
    if len(pickles) > 1:
        raise MibenchError(f"{path} holds two pickles ({listed(pickles)}), and torch writes one", cure=AGAIN)
    (pickled,) = pickles
    folder = pickled.partition("/")[0]
    findings = Findings()
    content = follow(io.BytesIO(archive.read(pickled)), findings)
    _refuse_claims(path, findings, total)
    for key, storage in findings.storages.items():
        there = held.get(f"{folder}/data/{key}")
        if there is None or there.file_size != storage.bytes:
            raise MibenchError(
                f"{path} is damaged: storage {shown(key)} is declared with {storage.bytes:,} bytes and holds "
                f"{('none' if there is None else f'{there.file_size:,}')}",
                cure=AGAIN,
            )

    def fill(storage: Storage, room: memoryview) -> None:
        with archive.open(held[f"{folder}/data/{storage.key}"]) as record:  # which compares the checksum at its end
            _copy(record, room)

    order = held.get(f"{folder}/byteorder")
    big = order is not None and order.file_size == 3 and archive.read(order) == b"big"
    return Saved(content, _Maker(path, findings, fill, "big" if big else "little"))


def _open_legacy(path: Path, file: BinaryIO) -> Saved:
    """Four pickles (magic, version, machine, object), the list of storage keys, then each storage: length and data."""
    findings, unpickled = Findings(), None
    total = path.stat().st_size
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(4):
            if findings.failure is None:
                unpickled = follow(content, findings)
        keys = follow(content, findings) if findings.failure is None else None
        offset = content.tell()
    _refuse_claims(path, findings, total)
    offsets: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else [None]:
        storage = findings.storages.get(key) if type(key) is str else None
        if storage is None or storage.key in offsets:
            raise MibenchError(f"{path} is damaged: its list of storages does not fit its tensors", cure=AGAIN)
        offsets[storage.key] = offset + 8
        offset += 8 + storage.bytes
    if len(offsets) < len(findings.storages):
        raise MibenchError(f"{path} is damaged: its list of storages does not fit its tensors", cure=AGAIN)
    if offset > total:
        needed = sum(8 + findings.storages[key].bytes for key in offsets)
        raise MibenchError(
            f"{path} is cut off: its tensors take {size(needed)}, {size(total - offset + needed)} are left", cure=AGAIN
        )

    def fill(storage: Storage, room: memoryview) -> None:
        file.seek(offsets[storage.key] - 8)
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise ValueError(f"storage {shown(storage.key)} has {count:,} items and is declared with {storage.count:,}")
        _copy(file, room)

    return Saved(unpickled, _Maker(path, findings, fill))


def _copy(source: IO[bytes], room: memoryview) -> None:
    """Fill the room from where the source stands."""
    offset = 0
    while offset < len(room):
        part = source.read(min(AT_ONCE, len(room) - offset))
        if not part:
            raise EOFError("a record is cut off")
        room[offset : offset + len(part)] = part
        offset += len(part)


def _refuse_claims(path: Path, findings: Findings, total: int) -> None:
    """Names first: what a file asks for matters more than that it is damaged too."""
    refuse(path, findings)
    claimed = sum(storage.bytes for storage in findings.storages.values())
    if claimed > total:
        raise MibenchError(
            f"{path} claims tensors of {size(claimed)} and has {size(total)}: cut off, or made to exhaust memory",
            cure=AGAIN,
        )
    if findings.failure is not None:
        raise broken(path, findings)
    for tensor in findings.tensors:
        if problem := tensor.problem(total):
            raise MibenchError(f"{path} is damaged: a tensor {problem}", cure=AGAIN)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown((lines or [type(error).__name__])[0].partition(". ")[0])
