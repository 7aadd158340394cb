"""What a download really is, by its first bytes and what the server calls it: often a page in place of the file."""

from __future__ import annotations

from typing import Literal

Kind = Literal["torch", "pickle", "zip", "png"]

HEAD = 512  # bytes that decide; pages are read further for the reason they give
PAGE = 65536  # bytes of a page that are read for its reason

TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that old torch.save files begin with, pickled
_ZIP = b"PK\x03\x04"
_PNG = b"\x89PNG\r\n\x1a\n"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
_HEADS: dict[Kind, tuple[bytes, ...]] = {
    "torch": (_ZIP, TORCH_LEGACY),
    "pickle": _PICKLES,
    "zip": (_ZIP,),
    "png": (_PNG,),
}
_NAMES: dict[Kind, str] = {
    "torch": "a PyTorch weights file",
    "pickle": "a pickle",
    "zip": "a zip archive",
    "png": "a PNG picture",
}
_FOUND: tuple[tuple[bytes, str], ...] = (
    (_ZIP, "a zip archive"),
    (TORCH_LEGACY, "a PyTorch weights file"),
    (_PNG, "a PNG picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file it stands for"),
    *((head, "a pickle") for head in _PICKLES),
)
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_REASONS = (  # words of a page (lower case) -> what it says; the first that matches
    (("quota exceeded", "quota has been exceeded", "too many users", "exceeded its quota", "bandwidth limit"), "quota"),
    (("accounts.google.com", "servicelogin", "sign in", "log in", "login"), "login"),
    (("virus scan", "scan this file for viruses", "download anyway"), "confirm"),
)
_TOLD = {
    "quota": "a page saying that the download quota is used up, not the file; try again tomorrow",
    "login": "a login page, not the file; sign in with a browser and download it there",
    "confirm": "a page that asks to confirm the download, not the file; confirm it in a browser",
    "page": "a web page, not the file; look at the address in a browser",
}


def is_page(head: bytes, content_type: str) -> bool:
    """Whether a server answered with a page: by the type it gives, or by how the text begins."""
    if content_type.partition(";")[0].strip().lower() in _PAGE_TYPES:
        return True
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<error"))


def page_reason(page: bytes) -> str:
    """What a page in place of a file says, and what to do about it."""
    text = page[:PAGE].decode("utf-8", errors="replace").lower()
    return _TOLD[next((reason for words, reason in _REASONS if any(word in text for word in words)), "page")]


def complaint(head: bytes, kind: Kind) -> str | None:
    """Why these first bytes cannot begin a file of ``kind``; None when they can."""
    if head.startswith(_HEADS[kind]):
        return None
    if not head:
        return f"an empty file, not {_NAMES[kind]}"
    found = next((name for begin, name in _FOUND if head.startswith(begin)), None)
    if found is None:
        found = f"something that begins with {head[:8].hex(' ')}"
    return f"{found}, not {_NAMES[kind]}"
