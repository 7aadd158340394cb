"""What lies in a folder, without surprises: whatever a file system answers besides "it is there" and "it is not" (links
that lead to themselves, names that are too long, mounts that were lost, folders that may not be read) is one line.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from mibench.errors import MibenchError

Kind = Literal["folder", "file", "other", "nothing"]  # other: a pipe, a socket, a device


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Everything in a folder, sorted by name.

    Raises:
        MibenchError: the folder is not there or cannot be read.
    """
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise MibenchError(
            f"cannot read the folder {folder}: {error.strerror}", cure="restore it or its permissions"
        ) from error


def kind_of(path: Path | os.DirEntry[str]) -> Kind:
    """What something is, links followed; ``nothing`` also for a link that leads nowhere.

    Raises:
        MibenchError: the system does not say; the line names the reason.
    """
    try:
        if isinstance(path, os.DirEntry) and not path.is_symlink():  # known from the listing: no question to the system
            return "folder" if path.is_dir() else "file" if path.is_file() else "other"
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError as error:
        name = os.fspath(path)
        raise MibenchError(f"{name} cannot be read: {error.strerror}", cure="restore it, or remove it") from error
    except ValueError as error:  # a NUL, which no name has
        raise MibenchError(f"{os.fspath(path)} is no name of a file: {error}", cure="name another") from error
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name."""
    return kind_of(path) == "folder"


def is_file(path: Path) -> bool:
    """Whether there is a file of this name."""
    return kind_of(path) == "file"


def real(path: Path) -> Path:
    """Where a path leads once every link is followed.

    Raises:
        MibenchError: a link that leads to itself.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # the second: a loop, before Python 3.13
        reason = (error.strerror if isinstance(error, OSError) else None) or "a link leads to itself"
        raise MibenchError(f"{path} cannot be read: {reason}", cure="restore it, or remove it") from error
