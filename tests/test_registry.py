"""The registry is lazy, suggests, and refuses two owners of one name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mibench import registry
from mibench.errors import MibenchError


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; distributions written into it are found as if they were installed."""
    monkeypatch.syspath_prepend(tmp_path)
    registry.catalogue.cache_clear()
    yield tmp_path
    registry.catalogue.cache_clear()


def install(folder: Path, distribution: str, module: str, catalogue: str) -> None:
    (folder / f"{module}.py").write_text(f"CATALOGUE = {catalogue}\n")
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mibench]\nmine = {module}:CATALOGUE\n")


def test_a_third_party_plugs_in_without_being_imported(plugged: Path) -> None:
    install(plugged, "third-party", "third_catalogue", "{'attack': {'mine': 'does_not_exist.attack:Mine'}}")
    entry = registry.entry("attack", "mine")
    assert entry.distribution == "third-party"
    assert "does_not_exist" not in sys.modules
    with pytest.raises(MibenchError, match="needs module 'does_not_exist', which is not installed"):
        entry.load()


def test_two_owners_of_a_name_are_both_named(plugged: Path) -> None:
    install(plugged, "first-party", "first_catalogue", "{'attack': {'mine': 'a:A'}}")
    install(plugged, "other-party", "other_catalogue", "{'attack': {'mine': 'b:B'}}")
    with pytest.raises(MibenchError, match=r"attack 'mine': first-party \(a:A\) and other-party \(b:B\)"):
        registry.catalogue()


def test_a_shipped_name_cannot_be_taken(plugged: Path) -> None:
    install(plugged, "thief", "thief_catalogue", "{'attack': {'dmmia': 'thief:Better'}}")
    with pytest.raises(MibenchError, match=r"attack 'dmmia': mibench \(.*\) and thief"):
        registry.catalogue()


def test_an_unknown_kind_names_its_owner(plugged: Path) -> None:
    install(plugged, "broken-party", "broken_catalogue", "{'atack': {}}")
    with pytest.raises(MibenchError, match=r"broken-party registers the unknown kind 'atack'; did you mean 'attack'"):
        registry.catalogue()


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(MibenchError, match=r"unknown attack 'dmia'; did you mean 'dmmia'\? \(known: .*dmmia"):
        registry.entry("attack", "dmia")
    with pytest.raises(MibenchError, match=r"unknown target 'VGG16'; did you mean 'vgg16'"):
        registry.entry("target", "VGG16")


def test_an_address_that_leads_nowhere_names_its_owner() -> None:
    with pytest.raises(MibenchError, match="of somebody points at 'math:nothing', which does not exist"):
        registry.Entry("attack", "x", "math:nothing", "somebody").load()


def test_entry_points_without_a_distribution_are_named_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("loose", "missing_module:CATALOGUE", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: (point,))
    registry.catalogue.cache_clear()
    with pytest.raises(MibenchError, match="entry point 'loose' registers 'missing_module:CATALOGUE'"):
        registry.catalogue()
    registry.catalogue.cache_clear()


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["--help"], ["run", "--help"], ["show", "protocol", "demo"]]
)
def test_listing_imports_neither_torch_nor_a_party(arguments: list[str]) -> None:
    heavy = (
        "torch",
        "numpy",
        "pandas",
        "scipy",
        "matplotlib",
        "mibench.attacks.dmmia",
        "mibench.targets.networks.vgg16",
    )
    code = (
        "import sys\n"
        "from mibench.cli import cli\n"
        f"cli({arguments!r}, standalone_mode=False)\n"
        f"print('HEAVY', sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "HEAVY []" in done.stdout
