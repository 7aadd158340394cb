"""Fixtures: the toy world, plugged in through the registry, in a home of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import toyworld`; there is no tests/__init__.py on purpose

# before torch is loaded: processes of tests side by side must not hold each other's cores by spinning
# (mibench.system.openmp)
os.environ["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", "500")

import torch
from toyworld import build
from toyworld.build import entry_points, write_world
from untouched import untouched

from mibench import registry

# tiny tensors: threads only cost; other counts are for trying whether a test hangs on how sums are split
torch.set_num_threads(int(os.environ.get("MIBENCH_TEST_THREADS", "1")))

# modules beside the tests that have fixtures of several of them
pytest_plugins = [
    "audited",
    "browser",
    "comparable_runs",
    "defended_runs",
    "downloads",
    "noise_images",
    "own_models",
    "party_plugin",
    "reported_runs",
    "sweeping",
]

ELSEWHERE = ("MIBENCH_DATA", "MIBENCH_OFFLINE", "MIBENCH_CACHE")  # where whoever runs the tests may have said to look

# tests of models in ONNX, an extra that a bare machine may lack
ONNX = [
    "test_own_model_files.py",
    "test_own_model_access.py",
    "test_pretend_device_attacks.py",
    "test_mutated_weights.py",
]
collect_ignore = [] if importlib.util.find_spec("onnx") else ONNX


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """Files are not forced to the disk: no test cuts the power, and a process that is killed loses nothing by it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def no_home_of_yours(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the weights that are shipped and none that lie in the home of whoever runs them."""
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path_factory.getbasetemp() / "no_home"))
    for name in ELSEWHERE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def modules_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Modules that a test writes and imports are gone after it: another test's may have the same name."""
    before = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(written):
            del sys.modules[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, for bits that are promised to be the same in batches of any size: how an operation is split among
    several, and so how its sums round, depends on its size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``$MIBENCH_HOME`` with the toy world's weights; shared, so tests do not write into it."""
    folder = tmp_path_factory.mktemp("toy_home")
    write_world(folder)
    return folder


@pytest.fixture(scope="session")
def smoke_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``runs``, where the smoke protocol ran from shipped weights, and ``home``, what it left in
    ``$MIBENCH_HOME``; shared, so tests copy it rather than write into it."""
    import mibench

    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIBENCH_HOME", str(folder / "home"))
        for name in ELSEWHERE:
            patch.delenv(name, raising=False)
        mibench.run(protocol="smoke", out=folder / "runs", device="cpu")
    with untouched(folder):
        yield folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``$MIBENCH_HOME``."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MIBENCH_HOME", str(folder))
    return folder


@pytest.fixture
def toy(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy world in a home of its own, which tests may spoil. Yields the home."""
    write_world(home)
    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry.catalogue.cache_clear()
    yield home
    registry.catalogue.cache_clear()


@pytest.fixture
def own_models(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world, in which models in code, ONNX and TorchScript can be targets as well. Yields the home."""
    monkeypatch.setattr(build, "POINTS", (*build.POINTS, EntryPoint("own", "toyworld:OWN", registry.GROUP)))
    registry.catalogue.cache_clear()
    return toy
