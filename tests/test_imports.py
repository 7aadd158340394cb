"""Which code may import which: the threat model can be read off the imports, and so can the floor plan."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
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


# The packages of the referee, lowest first: each imports from itself and from what is below it.
PACKAGES = (
    "errors",
    "version",
    "rng",
    "records",
    "system",
    "api",
    "plugins",
    "registry",
    "party_errors",
    "settings",
    "downloads",
    "data",
    "metrics",
    "weights",
    "results",
    "runs",
    "audits",
    "panels",
    "sweeps",
    "doctor",
    "viewer",
    "commands",
    "catalogue",
    "cli",
)
DATA_ONLY = ("protocols", "suites")  # YAML files


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


def modules() -> dict[str, Path]:
    """Every module of the distribution under its dotted name."""
    named: dict[str, Path] = {}
    for package, folder in {"mibench": PACKAGE, **{f"mibench.{party}": folder_of(party) for party in PARTIES}}.items():
        for path in folder.rglob("*.py"):
            inner = path.relative_to(folder).with_suffix("").parts
            if package == "mibench" and inner[0] in PARTIES:
                continue  # through the links of a checkout
            parts = inner[:-1] if inner[-1] == "__init__" else inner
            named[".".join((package, *parts))] = path
    return named


def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of the distribution that it imports, inside functions and for type checkers too."""
    named = modules()
    graph: dict[str, set[str]] = {}
    for module, path in named.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imported = imports_of(path, package)
        graph[module] = {n if n in named else n.rpartition(".")[0] for n in imported} & set(named) - {module}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, in order; empty when none do."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """``lower -> higher`` for every import against the order of :data:`PACKAGES`."""
    rank = {package: number for number, package in enumerate(PACKAGES)}
    return sorted(
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if rank.get(room_of(module), -1) >= 0 and rank.get(room_of(other), -1) > rank[room_of(module)]
    )


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
    files = {path for folder in folders for path in folder.rglob("*.py")}
    assert len(files) > 200
    for path in files:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{path} is past 400 lines: two ideas?"


def test_no_file_of_tests_is_two_subjects() -> None:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert Path(__file__) in files
    for path in files:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, (
            f"{path} is past 400 lines: split it by subject"
        )


def test_no_modules_import_each_other() -> None:
    graph = import_graph()
    assert len(graph) > 200
    circle = circle_in(graph)
    assert not circle, f"these modules import each other: {' -> '.join(circle)}; move what both need below both"


def test_no_room_imports_upwards() -> None:
    graph = import_graph()
    strangers = {room_of(m) for m in graph if room_of(m) not in ("__init__", "__main__", *PARTIES)}
    assert strangers - set(DATA_ONLY) == set(PACKAGES), "every module of the referee belongs to a package with a rank"
    upward = upward_imports(graph)
    assert not upward, f"these imports go upwards: {upward}; the order is {', '.join(PACKAGES)}"


def test_circles_and_upward_imports_are_noticed() -> None:
    """The two tests above can fail."""
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert upward_imports({"mibench.system.files": {"mibench.runs.store"}}) == [
        "mibench.system.files -> mibench.runs.store"
    ]
    assert not upward_imports({"mibench.runs.store": {"mibench.system.files"}})
