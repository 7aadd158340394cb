"""Who may know what is an import rule, so that the threat model can be read off the imports."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import mibench

PACKAGE = Path(mibench.__file__).parent
PARTIES = ("attacks", "targets", "reports")
ALLOWED = {
    "attacks": ("mibench.api", "mibench.rng"),
    "targets": ("mibench.api", "mibench.rng", "mibench.data"),
    "reports": ("mibench.api", "mibench.results"),
}


def folder_of(party: str) -> Path:
    """Where a party's sources lie: beside the package in a checkout, inside it in an installed wheel."""
    beside = PACKAGE.parent / party
    return beside if (beside / "__init__.py").is_file() and not (PACKAGE / party).is_dir() else PACKAGE / party


def imports_of(path: Path, package: str) -> set[str]:
    """Absolute names of everything a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{path}: parent-relative import; write the whole name"
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "mibench"}


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


@pytest.mark.parametrize("party", PARTIES)
def test_a_party_knows_only_the_contract_and_itself(party: str) -> None:
    folder = folder_of(party)
    files = sorted(folder.rglob("*.py"))
    assert files
    for path in files:
        inner = path.relative_to(folder).parent.as_posix().replace("/", ".")
        package = f"mibench.{party}" + ("" if inner == "." else f".{inner}")
        foreign = {n for n in imports_of(path, package) if not within(n, (*ALLOWED[party], f"mibench.{party}"))}
        assert not foreign, f"{path} imports {sorted(foreign)}: {party} may import {ALLOWED[party]}"


def test_the_referee_imports_no_party() -> None:
    files = [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] not in PARTIES]
    assert len(files) > 20
    for path in files:
        inner = path.relative_to(PACKAGE).parent.as_posix().replace("/", ".")
        package = "mibench" + ("" if inner == "." else f".{inner}")
        parties = tuple(f"mibench.{party}" for party in PARTIES)
        known = {name for name in imports_of(path, package) if within(name, parties)}
        assert not known, f"{path} imports {sorted(known)}: the referee reaches parties through the registry only"


def test_no_top_level_names_but_ours() -> None:
    for name in PARTIES:
        assert name not in sys.modules, f"{name!r} was imported as a top-level package"


def test_no_file_is_two_ideas() -> None:
    folders = [PACKAGE, *(folder_of(party) for party in PARTIES)]
    for path in {path for folder in folders for path in folder.rglob("*.py")}:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{path} is past 400 lines: two ideas?"
