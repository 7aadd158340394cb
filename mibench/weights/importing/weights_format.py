"""What a file is, by its bytes: names like ``.tar`` and ``.pth`` say nothing in this field.

Only weights are recognised as something to read; everything else is refused with what it is and what to do.
"""

from __future__ import annotations

import enum
import io
import tarfile
import zipfile
from pathlib import Path
from typing import NoReturn

from mibench.errors import MibenchError
from mibench.system.file_type import PAGE, TYPES, is_page, page_reason, text_start, type_of

from .text import listed, size

COMPRESSED = ("gzip", "bzip2", "xz", "zstandard", "7-zip", "RAR")
AGAIN = "download it again"
NAME = "name the file that torch.save wrote"
CONVERT = "convert it to ONNX (tf2onnx) and audit that with `mibench audit --model FILE.onnx`"
EXPORT = "export the network to ONNX (torch.onnx.export) or TorchScript (torch.jit.trace) for `mibench audit --model`"
CODE = "--model takes the function or class that builds the network, such as STEM:build, and --weights its weights"
OTHERS = {  # type -> what to do; checked before the name
    "hdf5": CONVERT,
    "tflite": CONVERT,
    "numpy": NAME,
    "matlab": NAME,
    "png": NAME,
    "jpeg": NAME,
    "pdf": NAME,
    "gguf": NAME,
    "tensorrt": EXPORT,
}
BY_NAME = {  # files without magic bytes, told by their endings
    ".onnx": ("an ONNX file, a program rather than weights", "audit it with `mibench audit`"),
    ".py": ("Python code, not weights", CODE),
    ".ipynb": ("a notebook, not weights", "put the network into a module: " + CODE),
    ".pb": ("a graph of TensorFlow, which is not run here", CONVERT),
    ".mlmodel": ("a model of Core ML, which is not run here", EXPORT),
    ".caffemodel": ("a model of Caffe, which is not run here", CONVERT.replace(" (tf2onnx)", "")),
    ".json": ("a text file, not weights", "name the .safetensors or .pth file itself"),
    ".yaml": ("a text file, not weights", "name the .safetensors or .pth file itself"),
}
FOLDERS = {  # a file in it -> what the folder is, what to do
    "saved_model.pb": f"a SavedModel of TensorFlow, which is not run here; {CONVERT}",
    "Manifest.json": f"a package of Core ML, which is not run here; {EXPORT}",
    "model.safetensors": "a folder; name the file model.safetensors in it, with --weights and the code that builds it",
    "pytorch_model.bin": "a folder; name the file pytorch_model.bin in it, with --weights and the code that builds it",
}


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
            head = file.read(PAGE)
    except OSError as error:
        raise MibenchError(f"cannot read {path}: {error.strerror}", cure="name a file of weights") from error
    if not head:
        raise MibenchError(f"{path} is empty", cure=AGAIN)
    _refuse_text(path, head)
    if head[8:9] == b"{" and (head[9:10] == b'"' or path.suffix == ".safetensors"):
        return Format.SAFETENSORS
    kind = type_of(head)
    if kind == "zip":
        return _zip(path)
    if kind in ("torch legacy", "torch legacy in a frame"):
        return Format.TORCH_LEGACY
    if kind == "tar":
        _refuse_tar(path)
    if kind in COMPRESSED:
        inside = _inside_gzip(path, head) if kind == "gzip" else ""
        raise MibenchError(f"{path} is compressed with {kind}", cure=f"unpack it first{inside}")
    if kind in OTHERS:
        raise MibenchError(f"{path} is {TYPES[kind].what}, not weights of torch", cure=f"{OTHERS[kind]}")
    if kind == "pickle":
        return Format.PICKLE
    if (known := BY_NAME.get(path.suffix.lower())) is not None:
        what, cure = known
        raise MibenchError(f"{path} is {what}", cure=cure.replace("STEM", path.stem))
    return Format.PICKLE  # pickles of protocol 0 and 1 have no magic: the reader finds out


def _refuse_text(path: Path, head: bytes) -> None:
    """Pages saved under the name of weights: quota pages, log-ins, errors of a store, pointers of Git LFS."""
    start = text_start(head)
    if is_page(head):
        if b"<net " in head:
            raise MibenchError(f"{path} is a model of OpenVINO, which is not run here", cure=EXPORT)
        raise MibenchError(f"{path} is {page_reason(head)}")
    if start.startswith(TYPES["git lfs"].magic):
        raise MibenchError(f"{path} is a pointer of Git LFS, not weights", cure="fetch the file with `git lfs pull`")
    if start.startswith((b'{"error', b'{"message')):
        raise MibenchError(f"{path} is a server's error message, not weights", cure=AGAIN)


def refuse_folder(path: Path) -> NoReturn:
    """Say what a folder is that was named in place of a file.

    Raises:
        MibenchError: always.
    """
    for name, what in FOLDERS.items():
        if (path / name).is_file():
            raise MibenchError(f"{path} is {what}")
    raise MibenchError(f"{path} is a folder", cure="name the file of weights in it")


def _zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise MibenchError(
            f"{path} is cut off or damaged: a zip file without its directory ({size(path.stat().st_size)})", cure=AGAIN
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise MibenchError(
            f"{path} is a TorchScript program, not weights",
            cure=f"attack it as it is with `mibench audit --model {path.name}`",
        )
    if "data.pkl" in inner:
        return Format.TORCH_ZIP
    if "archive_format" in inner or any(name.startswith("models/") and name.endswith(".json") for name in inner):
        raise MibenchError(f"{path} is a program of torch.export (.pt2), which is not run here", cure=EXPORT)
    if {"config.json", "model.weights.h5"} <= set(names):
        raise MibenchError(f"{path} is a model of Keras", cure=CONVERT)
    if names and all(name.endswith(".npy") for name in names):
        raise MibenchError(f"{path} is an archive of NumPy arrays (.npz), not weights of torch", cure=NAME)
    raise MibenchError(f"{path} is a zip archive", cure=f"unpack it first: it holds {listed(names) or 'nothing'}")


def _refuse_tar(path: Path) -> NoReturn:
    with path.open("rb") as file:
        names = _names_in_tar(file, most=4)
    if {"storages", "tensors", "pickle"} >= set(names) and names:
        raise MibenchError(
            f"{path} was saved by a torch from before 2017, which nothing reads safely",
            cure="open it with the torch of its time and save its state_dict again",
        )
    raise MibenchError(f"{path} is a real tar archive", cure=f"unpack it first: it holds {listed(names) or 'nothing'}")


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
    if TYPES["tar"].begins(first):
        names = _names_in_tar(io.BytesIO(first), most=1)
        return f": it holds {listed(names)} ..." if names else ""
    return f": it holds {listed([path.stem])}"
