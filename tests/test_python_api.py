"""The Python API: the commands as functions. The examples in their documentation run here."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mibench
from mibench import commands
from mibench.cli import cli
from mibench.errors import MibenchError

FUNCTIONS = [name for name in mibench.__all__ if not name.startswith("__")]
NOT_RUN = {"sweep"}  # starts processes: tests/test_sweep.py


@pytest.fixture(scope="module")
def workplace(smoke_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working directory and one ``$MIBENCH_HOME`` for all examples: what one of them made, another finds complete.

    The run of the smoke protocol, with which many begin, is there from the start."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(smoke_world, folder, dirs_exist_ok=True)
    for number, name in enumerate(("people/ada", "people/ben", "people/cleo", "strangers/dan", "strangers/eve")):
        (folder / name).mkdir(parents=True)
        for take in range(8):
            noise = np.random.default_rng([number, take]).integers(0, 40, size=(16, 16, 3))
            noise[..., number % 3] += 200  # a person is a colour
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{take}.png")
    (folder / "mynet.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # the colour that is strongest\n"
    )
    return folder


@pytest.fixture
def there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enters the working directory."""
    monkeypatch.setenv("MIBENCH_HOME", str(workplace / "home"))
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    return workplace


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_function_is_true(name: str, there: Path) -> None:
    function: Callable[..., object] = getattr(mibench, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert example.examples, "it has an example"
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=options).run(example, out=report.append)
    assert result.failed == 0, "".join(report)
    skipped = all(one.options.get(doctest.SKIP) for one in example.examples[1:])
    assert skipped == (name in NOT_RUN)


def test_every_function_is_a_command_and_every_command_a_function() -> None:
    apart = {"list": "names", "import": "import_weights"}
    of_commands = {apart.get(name, name) for name in cli.commands} - {"show", "doctor", "data", "verdicts"}
    apart_from_commands = {"open_run", "forecast", "update_baseline"}
    of_groups = {f"{name}_verdicts" for name in cli.commands["verdicts"].commands}
    assert set(FUNCTIONS) - apart_from_commands == of_commands | of_groups
    assert set(FUNCTIONS) <= set(commands.__all__)
    assert set(FUNCTIONS) <= set(dir(mibench))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_typed_and_documented(name: str) -> None:
    function = getattr(mibench, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert "Any" not in str(signature)
    assert (inspect.getdoc(function) or "").strip()


def test_the_package_and_its_names_cost_no_torch() -> None:
    code = "import sys, mibench; dir(mibench); mibench.names('attacks'); mibench.run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_names_are_of_one_kind_or_many() -> None:
    assert mibench.names("protocols") == mibench.names("protocol")
    assert "vgg16@synthfaces" in mibench.names("weights")
    with pytest.raises(MibenchError, match="did you mean 'attack'"):
        mibench.names("atack")


def test_an_unknown_name_of_the_package_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'attack'"):
        _ = mibench.attack  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [{"attack": 3}, {"steps": 3}])
def test_settings_have_a_scope(settings: dict[str, object]) -> None:
    with pytest.raises(MibenchError, match=r"expected 'scope\.name' or a mapping, got 3"):
        mibench.run(settings=settings)
