"""Starting a command from a folder with modules in it, also where Python was told not to look there (as tox does)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``folder`` the working directory and its modules importable for the rest of a test."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own cache beside a module is nobody's leftover
    if sys.flags.safe_path:
        monkeypatch.syspath_prepend(str(folder))
