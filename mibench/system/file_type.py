"""What a file is by its first bytes: often not what its name says, and often a web page in place of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HEAD = 512  # bytes that decide
PAGE = 65536  # bytes of a page that are read for its reason
TORCH_NUMBER = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickled: what every file of an old torch.save begins with
TORCH_LEGACY = b"\x80\x02" + TORCH_NUMBER


@dataclass(frozen=True)
class FileType:
    """A type of file: what it is called, and the bytes at ``offset`` that give it away (any of them)."""

    what: str
    magic: tuple[bytes, ...]
    offset: int = 0

    def begins(self, head: bytes) -> bool:
        """Whether a file that begins so is one."""
        return head.startswith(self.magic, self.offset)


TYPES: Mapping[str, FileType] = {
    # the first that matches: an old file of torch is a pickle, too; from protocol 4 on its number lies in a frame
    "torch legacy": FileType("a PyTorch weights file", tuple(bytes([0x80, n]) + TORCH_NUMBER for n in (2, 3))),
    "torch legacy in a frame": FileType("a PyTorch weights file", (TORCH_NUMBER,), offset=11),
    "pickle": FileType("a pickle", tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))),
    "zip": FileType("a zip archive", (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")),
    "gzip": FileType("a gzip archive", (b"\x1f\x8b",)),
    "bzip2": FileType("a bzip2 archive", (b"BZh",)),
    "xz": FileType("an xz archive", (b"\xfd7zXZ\x00",)),
    "zstandard": FileType("a zstandard archive", (b"\x28\xb5\x2f\xfd",)),
    "7-zip": FileType("a 7-zip archive", (b"7z\xbc\xaf\x27\x1c",)),
    "RAR": FileType("a RAR archive", (b"Rar!",)),
    "tar": FileType("a tar archive", (b"ustar",), offset=257),
    "png": FileType("a PNG picture", (b"\x89PNG\r\n\x1a\n",)),
    "jpeg": FileType("a JPEG picture", (b"\xff\xd8\xff",)),
    "pdf": FileType("a PDF document", (b"%PDF",)),
    "hdf5": FileType("an HDF5 file (Keras, h5py)", (b"\x89HDF",)),
    "tflite": FileType("a model of TensorFlow Lite", (b"TFL3",), offset=4),
    "numpy": FileType("a NumPy array", (b"\x93NUMPY",)),
    "matlab": FileType("a MATLAB file", (b"MATLAB 5.0",)),
    "gguf": FileType("a GGUF file", (b"GGUF",)),
    "tensorrt": FileType("an engine of TensorRT", (b"ftrt",)),
    "git lfs": FileType("a pointer of Git LFS, not the file it stands for", (b"version https://git-lfs",)),
}
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")
_REASONS = (  # words of a page (lower case) -> what it says; the first that matches
    (("quota exceeded", "quota has been exceeded", "too many users", "exceeded its quota", "bandwidth limit"), "quota"),
    (("accounts.google.com", "servicelogin", "sign in", "log in", "login"), "login"),
    (("virus scan", "scan this file for viruses", "download anyway"), "confirm"),
)
PLAIN_PAGE = "a web page, not the file; look at the address in a browser"  # one that gives no known reason
_TOLD = {
    "quota": "a web page, the drive's quota page: the download quota is used up; try again tomorrow, or copy the file "
    "into a drive of your own and download it from there",
    "login": "a login page, not the file; sign in with a browser and download it there",
    "confirm": "a page that asks to confirm the download, not the file; confirm it in a browser",
    "page": PLAIN_PAGE,
}


def type_of(head: bytes) -> str | None:
    """The key in :data:`TYPES` of what begins with ``head`` (:data:`HEAD` bytes or more); None: nothing known."""
    return next((name for name, kind in TYPES.items() if kind.begins(head)), None)


def text_start(head: bytes) -> bytes:
    """How a text begins: without byte order mark and white space, in lower case."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()


def is_page(head: bytes, content_type: str = "") -> bool:
    """Whether this is a web page or an error in XML: by the type a server gives, or by how the text begins."""
    if content_type.partition(";")[0].strip().lower() in _PAGE_TYPES:
        return True
    return text_start(head).startswith(_PAGE_STARTS)


def page_reason(page: bytes) -> str:
    """What a page in place of a file says, and what to do about it."""
    text = page[:PAGE].decode("utf-8", errors="replace").lower()
    return _TOLD[next((reason for words, reason in _REASONS if any(word in text for word in words)), "page")]


def beginning(head: bytes) -> str:
    """What an unreadable file looks like, to follow its name in a message: ``it is empty``, ``it begins like ...``."""
    if not head:
        return "it is empty"
    if is_page(head):
        return f"it is {page_reason(head)}"
    name = type_of(head)
    return f"it begins with {head[:8]!r}" if name is None else f"it begins like {TYPES[name].what}"
