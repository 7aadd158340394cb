"""Runs of which a file was changed after they ended: refused in one line, mended by what it names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_engine import toy_run

import mibench
from mibench.cli import cli
from mibench.results import damaged, open_run


@pytest.fixture(scope="module")
def finished(toy_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its floor."""
    from toyworld.build import entry_points

    from mibench import registry

    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIBENCH_HOME", str(toy_home))
        patch.setattr(registry, "entry_points", entry_points)
        registry.catalogue.cache_clear()
        toy_run(out, settings={"protocol.identities": 4})
    registry.catalogue.cache_clear()
    return out


def change(file: Path) -> None:
    content = file.read_bytes()
    place = len(content) - 2  # inside the last pixel, digit or brace
    file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


SPOILT = {
    "a number": ("metrics.json", lambda file: file.write_text(file.read_text().replace('"n": 4', '"n": 5'))),
    "a row": ("samples.csv", lambda file: file.write_text(file.read_text().replace("True", "False", 1))),
    "a unit": ("units/000.safetensors", change),
    "half a unit": ("units/000.safetensors", lambda file: file.write_bytes(file.read_bytes()[:100])),
    "no unit": ("units/000.safetensors", Path.unlink),
    "the state": ("state.safetensors", change),
}


@pytest.mark.parametrize("whose", ["toyattack", "floor"])
@pytest.mark.parametrize("what", SPOILT)
def test_a_damaged_run_is_one_line(finished: Path, tmp_path: Path, what: str, whose: str) -> None:
    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    folder = next(out.glob(f"{whose}-*"))
    name, spoil = SPOILT[what]
    spoil(folder / name)
    attacked = next(out.glob("toyattack-*"))
    for words in (["compare", out], ["compare", attacked, "--json"], ["compare", folder], ["show", "run", folder]):
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == 2, done.output
        assert len(done.stderr.splitlines()) == 1
        assert f"{folder.name} is damaged since it was finished: {name} " in done.stderr
        assert ("mibench score" in done.stderr) == (name in ("samples.csv", "metrics.json"))


def test_an_intact_run_is_compared_and_shown_and_its_figures_are_its_owner_s(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    folder = next(out.glob("toyattack-*"))
    for file in (folder / "tables").iterdir():
        file.unlink()
    assert CliRunner().invoke(cli, ["compare", str(out)]).exit_code == 0
    assert CliRunner().invoke(cli, ["show", "run", str(folder)]).exit_code == 0
    assert damaged(open_run(folder)) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_unit_is_not_waited_for(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "runs")
    folder = next((tmp_path / "runs").glob("toyattack-*"))
    unit = folder / "units" / "000.safetensors"
    unit.unlink()
    os.mkfifo(unit)
    assert "units/000.safetensors is missing" in str(damaged(open_run(folder)))


def test_the_same_command_mends_it(toy: Path, tmp_path: Path) -> None:
    run = toy_run(tmp_path, settings={"protocol.identities": 2})
    change(run.path / "units" / "000.safetensors")
    assert damaged(open_run(run.path)) is not None
    mibench.run(config=run.path / "config.yaml", out=tmp_path, device="cpu")
    assert damaged(open_run(run.path)) is None
