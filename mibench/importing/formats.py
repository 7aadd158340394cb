"""What a file is, by its bytes: names like ``.tar`` and ``.pth`` say nothing in this field.

Only weights are recognised as something to read; everything else is refused with what it is and what to do.
"""

from __future__ import annotations

import enum
import io
import tarfile
import zipfile
from pathlib import Path

from mibench.errors import MibenchError

from .wording import listed, size

HEAD = 1 << 16  # bytes looked at
TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # LONG1, ten bytes, the number every old torch.save begins with
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf\x27\x1c": "7-zip",
    b"Rar!": "RAR",
}
OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras, h5py)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF file",
}
AGAIN = "download it again"


class Format(enum.Enum):
    """The formats that can hold weights."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch legacy"
    PICKLE = "pickle"


def recognise(path: Path) -> Format:
    """The format of a file.

    Raises:
        MibenchError: it cannot be opened, is empty, a page, an archive, a TorchScript program, or no weights at all.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}; name a file of weights") from error
    if not head:
        raise MibenchError(f"{path} is empty; {AGAIN}")
    _refuse_text(path, head)
    if head[8:9] == b"{" and (head[9:10] == b'"' or path.suffix == ".safetensors"):
        return Format.SAFETENSORS
    if head.startswith(b"PK"):
        return _zip(path)
    if head[:1] == b"\x80":
        return Format.TORCH_LEGACY if head[2:].startswith(TORCH_MAGIC) else Format.PICKLE
    _refuse_archive(path, head)
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            raise MibenchError(f"{path} is {what}, not weights of torch; name the file that torch.save wrote")
    if path.suffix == ".onnx":
        raise MibenchError(f"{path} is an ONNX file, a program rather than weights; audit it with `mibench audit`")
    return Format.PICKLE  # pickles of protocol 0 and 1 have no magic: the reader finds out


def _refuse_text(path: Path, head: bytes) -> None:
    """Pages saved under the name of weights: quota pages, log-ins, errors of a store, pointers of Git LFS."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        if b"quota" in head.lower():
            raise MibenchError(
                f"{path} is the drive's quota page, not weights: too many people downloaded the file; try again in a "
                "day, or copy it into a drive of your own and download it from there"
            )
        raise MibenchError(f"{path} is a web page, not weights (a log-in or an error); {AGAIN} in a browser")
    if start.startswith(b"version https://git-lfs"):
        raise MibenchError(f"{path} is a pointer of Git LFS, not weights; fetch the file with `git lfs pull`")
    if start.startswith((b'{"error', b'{"message')):
        raise MibenchError(f"{path} is a server's error message, not weights; {AGAIN}")


def _zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise MibenchError(
            f"{path} is cut off or damaged: a zip file without its directory ({size(path.stat().st_size)}); {AGAIN}"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise MibenchError(
            f"{path} is a TorchScript program, not weights; attack it as it is with `mibench audit --model {path.name}`"
        )
    if "data.pkl" in inner:
        return Format.TORCH_ZIP
    raise MibenchError(f"{path} is a zip archive; unpack it first: it holds {listed(names) or 'nothing'}")


def _refuse_archive(path: Path, head: bytes) -> None:
    if head[257:262] == b"ustar":
        with path.open("rb") as file:
            names = _names_in_tar(file, most=4)
        if {"storages", "tensors", "pickle"} >= set(names) and names:
            raise MibenchError(
                f"{path} was saved by a torch from before 2017, which nothing reads safely; "
                "open it with the torch of its time and save its state_dict again"
            )
        raise MibenchError(f"{path} is a real tar archive; unpack it first: it holds {listed(names) or 'nothing'}")
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            inside = _inside_gzip(path, head) if name == "gzip" else ""
            raise MibenchError(f"{path} is compressed with {name}; unpack it first{inside}")


def _names_in_tar(file: io.BufferedIOBase | io.BufferedReader, most: int) -> list[str]:
    names: list[str] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while len(names) < most and (member := archive.next()) is not None:
                names.append(member.name)
    except (tarfile.TarError, OSError, ValueError, EOFError):
        pass  # a damaged archive is still an archive: the names read so far will do
    return names


def _inside_gzip(path: Path, head: bytes) -> str:
    """``: it holds X``, read from the first kilobytes alone: a bomb never unfolds."""
    import zlib

    try:
        first = zlib.decompressobj(wbits=31).decompress(head, 2048)
    except zlib.error:
        return ""
    if first[257:262] == b"ustar":
        names = _names_in_tar(io.BytesIO(first), most=1)
        return f": it holds {listed(names)} ..." if names else ""
    return f": it holds {listed([path.stem])}"
