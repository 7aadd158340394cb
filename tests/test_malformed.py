"""Malformed inputs, a row each: one line that names the cause and the cure, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from malformed import Row, World, first_picture, snapshot
from malformed_data import TRAIN, VERIFY, celeba
from malformed_models import AUDIT
from malformed_weights import FETCH, IMPORT, RUN
from workplace import enter

from mibench.cli import cli


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Well-formed trees in the formats of the real data sets."""
    folder = tmp_path_factory.mktemp("trees")
    for name, people, images in (("celeba", 4, 8), ("stanford_dogs", 3, 4), ("folder", 3, 4), ("facescrub", 4, 4)):
        wanted = ["--output", folder / name, "--people", people, "--images", images]
        done = call("data", "fixture", name, *wanted)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def world(trees: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world of one row; whatever a command writes without being told a folder would land in it."""
    home.mkdir(exist_ok=True)
    place = tmp_path / "place"
    place.mkdir()
    enter(place, monkeypatch)
    return World(trees, place, home)


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def told(done: Result) -> str:
    """The one line of a refusal, after whatever progress was reported."""
    assert done.exit_code == 2, f"{done.exit_code}: {done.output}\n{done.exception!r}"
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in done.output
    assert not done.stdout
    return lines[0]


def found_wrong(done: Result) -> str:
    """The one thing that `data verify` finds wrong, with its cure: its report is the answer, so nothing is an error."""
    assert done.exit_code == 2, f"{done.exit_code}: {done.output}\n{done.exception!r}"
    report = json.loads(done.stdout)
    wrong = [finding for finding in report["findings"] if finding["level"] == "wrong"]
    assert len(wrong) == report["wrong"] == 1, wrong
    assert wrong[0]["cure"], wrong
    return f"{wrong[0]['what']} -> {wrong[0]['cure']}"


def check(world: World, row: Row) -> None:
    arguments = row.spoil(world)
    before = snapshot(world.home, world.place)
    done = call(*arguments)
    line = found_wrong(done) if arguments[:2] == ["data", "verify"] else told(done)
    for fragment in row.told:
        assert fragment in line, line
    assert "\n" not in line
    assert len(line) < 1500
    assert snapshot(world.home, world.place) == before


@pytest.mark.parametrize("row", VERIFY, ids=lambda row: row.name)
def test_data_verify(world: World, row: Row) -> None:
    check(world, row)


@pytest.mark.parametrize("row", TRAIN, ids=lambda row: row.name)
def test_train(world: World, row: Row) -> None:
    check(world, row)


@pytest.mark.parametrize("row", IMPORT, ids=lambda row: row.name)
def test_import(world: World, row: Row) -> None:
    check(world, row)


@pytest.mark.parametrize("row", AUDIT, ids=lambda row: row.name)
def test_audit(world: World, row: Row) -> None:
    check(world, row)


@pytest.mark.parametrize("row", RUN, ids=lambda row: row.name)
def test_run(toy: Path, world: World, row: Row) -> None:
    check(world, row)


@pytest.mark.parametrize("row", FETCH, ids=lambda row: row.name)
def test_fetch(world: World, row: Row) -> None:
    check(world, row)


def test_the_damage_is_what_is_refused(world: World) -> None:
    """What the rows start from is accepted, so that nothing is refused for another reason."""
    assert call(*celeba(world.tree("celeba"), "--full")).exit_code == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_picture_that_may_not_be_read(world: World) -> None:
    root = world.tree("celeba")
    first_picture(root).chmod(0)
    assert "Permission denied" in found_wrong(call(*celeba(root, "--full")))
