"""The wheel holds every module and data file, an editable install sees the same, and only ``mibench`` is taken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = {"mibench.attacks": "attacks", "mibench.targets": "targets", "mibench.reports": "reports"}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")


def settings() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, object] = tomllib.load(file)["tool"]["setuptools"]
    return found


def packages_on_disk() -> set[str]:
    """Every folder with an ``__init__.py`` below the package and its mapped folders."""
    found = set()
    for name, folder in {"mibench": "mibench", **MAPPED}.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            if name == "mibench" and inner and f"mibench.{inner[0]}" in MAPPED:
                continue  # through the links
            found.add(".".join([name, *inner]))
    return found


def files_on_disk() -> set[str]:
    """What the wheel must hold: modules and data, under the names they have when installed."""
    found = set()
    for name, folder in {"mibench": "mibench", **MAPPED}.items():
        for path in (ROOT / folder).rglob("*"):
            inner = path.relative_to(ROOT / folder)
            linked = name == "mibench" and f"mibench.{inner.parts[0]}" in MAPPED
            if path.is_file() and not linked and "__pycache__" not in inner.parts:
                found.add("/".join([*name.split("."), *inner.parts]))
    return found


def call(command: Sequence[object], **options: object) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | {"PYTHONSAFEPATH": "1"},
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def test_the_list_of_packages_is_the_disk() -> None:
    assert set(settings()["packages"]) == packages_on_disk()  # type: ignore[call-overload]


def test_the_links_lead_to_the_folders() -> None:
    for folder in MAPPED.values():
        link = ROOT / "mibench" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing behind."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("mibench", *MAPPED.values()):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    call([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, checkout])
    (found,) = folder.glob("mibench-*.whl")
    return found


def test_the_wheel_holds_every_file_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_on_disk()


def installed(folder: Path, requirement: Sequence[object]) -> dict[str, object]:
    """Install without dependencies into an environment that sees ours, and ask it what it has."""
    call([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", folder])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    # An environment of an environment does not see its parent: a folder of links shows it everything but ourselves.
    parent = folder / "parent"
    parent.mkdir()
    for path in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
        for library in path.iterdir():
            ours = library.name.startswith(("mibench", "__editable__", "_")) or library.suffix == ".pth"
            if not ours and not (parent / library.name).exists():
                (parent / library.name).symlink_to(library)
    (site / "parent.pth").write_text(f"{parent}\n")
    call(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--ignore-installed", *requirement]
    )
    code = (
        "import json, sys, importlib.util, mibench, mibench.attacks, mibench.cli\n"
        "from mibench import registry\nfrom mibench.weights import cards\n"
        "print(json.dumps({\n"
        "  'file': mibench.__file__, 'attacks': registry.names('attack'), 'cards': list(cards.all_cards()),\n"
        "  'loaded': registry.load('attack', 'floor').__module__,\n"
        "  'taken': [n for n in ('attacks', 'targets', 'reports', 'tests') if importlib.util.find_spec(n)],\n"
        "}))"
    )
    found: dict[str, object] = json.loads(call([python, "-c", code], cwd=folder))
    return found


def shipped_cards() -> int:
    return len([*ROOT.glob("targets/cards/*.yaml"), *ROOT.glob("attacks/cards/*.yaml")])


def check(found: dict[str, object], place: Path) -> None:
    assert str(found["file"]).startswith(str(place))
    assert set(found["attacks"]) >= {"dmmia", "floor"}  # type: ignore[call-overload]
    assert found["loaded"] == "mibench.attacks.floor"
    assert len(found["cards"]) == shipped_cards()  # type: ignore[arg-type]
    assert found["taken"] == []


def test_the_wheel_installs_and_works(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path / "home"))
    check(installed(tmp_path / "environment", [wheel]), tmp_path / "environment")


def test_an_editable_install_works(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path / "home"))
    check(installed(tmp_path / "environment", ["-e", checkout]), checkout)
