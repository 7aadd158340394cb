"""Whether a download can be the file that was asked for, by its first bytes."""

from __future__ import annotations

from typing import Literal

from mibench.system.file_type import TYPES, type_of

Kind = Literal["torch", "pickle", "zip", "png"]

_ACCEPTED: dict[Kind, tuple[str, ...]] = {
    "torch": ("zip", "torch legacy", "torch legacy in a frame"),
    "pickle": ("pickle", "torch legacy", "torch legacy in a frame"),
    "zip": ("zip",),
    "png": ("png",),
}
_NAMES: dict[Kind, str] = {
    "torch": "a PyTorch weights file",
    "pickle": "a pickle",
    "zip": "a zip archive",
    "png": "a PNG picture",
}


def complaint(head: bytes, kind: Kind) -> str | None:
    """Why these first bytes cannot begin a file of ``kind``; None when they can."""
    name = type_of(head)
    if name in _ACCEPTED[kind]:
        return None
    if not head:
        return f"an empty file, not {_NAMES[kind]}"
    what = f"something that begins with {head[:8].hex(' ')}" if name is None else TYPES[name].what
    return f"{what}, not {_NAMES[kind]}"
