"""Attacks from files and catalogues from folders: found, refused in one line, part of the digest by their source."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import mibench
from mibench import plugins, registry
from mibench.cli import cli
from mibench.results import open_run
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
ATTACK = '''"""A copy of the floor under another name, small enough for a test."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mibench.api import Access, Attack, Queries, Reconstruction


@dataclass(frozen=True, kw_only=True)
class Guess(Attack):
    """Draws of the prior, in no order."""

    name: ClassVar[str] = "guess"
    access: ClassVar[Access] = Access.LABELS
    draws: int = 6

    def planned_queries(self, identities):
        return Queries()

    def reconstruct(self, context, state, labels, streams):
        own = [streams.generator("identity", label) for label in labels.tolist()]
        latents = torch.cat([context.prior.sample(self.draws, g) for g in own])
        wanted = labels.repeat_interleave(self.draws)
        images = context.fit(context.prior.decode(latents))
        return Reconstruction(images=images, labels=wanted, confidence=torch.zeros(len(wanted)))
'''


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test plugs in is gone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    registry.catalogue.cache_clear()
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    registry.catalogue.cache_clear()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``guess.py``."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "guess.py").write_text(ATTACK)
    monkeypatch.chdir(folder)
    return folder


def test_an_attack_of_a_file_runs_scores_again_and_is_recorded(toy: Path, place: Path) -> None:
    run = mibench.run("./guess.py:Guess", **TOY, out="runs", device="cpu")
    stored = open_run(run.path)
    assert run.path.name.startswith("guess-toynet-toyfaces-")
    assert stored.attack == "guess"
    assert len(stored.specification["attack_code"]) == 64
    assert "attack guess" in stored.record["code"]
    assert stored.config["attack"] == "./guess.py:Guess"
    assert mibench.run("./guess.py:Guess", **TOY, out="runs", device="cpu").reused
    assert mibench.run(config=run.path / "config.yaml", out="runs", device="cpu").reused
    done = CliRunner().invoke(cli, ["score", str(run.path), "--json"])
    assert done.exit_code == 0, done.output


def test_another_source_is_another_attack_wherever_it_lies(toy: Path, place: Path, tmp_path: Path) -> None:
    def digest(address: str) -> str:
        return make_plan(RunRequest(attack=address, **TOY)).spec.digest()

    (place / "guess.py").write_text(f"import beside\n{ATTACK}")
    (place / "beside.py").write_text("import deeper.inner\n")
    (place / "deeper").mkdir()
    (place / "deeper" / "__init__.py").write_text("")
    (place / "deeper" / "inner.py").write_text("VALUE = 1\n")
    first = digest("guess.py:Guess")
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    os.chdir(elsewhere)
    assert digest(f"{elsewhere}/guess.py:Guess") == first
    (elsewhere / "deeper" / "unused.py").write_text("VALUE = 1\n")
    assert digest("guess.py:Guess") == first
    (elsewhere / "deeper" / "inner.py").write_text("VALUE = 2\n")  # two imports away
    assert digest("guess.py:Guess") != first


def test_a_file_beside_it_that_changes_is_run_again_in_the_same_process(toy: Path, place: Path) -> None:
    source = "from beside import COUNT\n" + ATTACK.replace("draws: int = 6", "draws: int = COUNT")
    (place / "guess.py").write_text(source)
    for count in (6, 70):
        (place / "beside.py").write_text(f"COUNT = {count}\n")
        assert make_plan(RunRequest(attack="guess.py:Guess", **TOY)).spec.attack_settings["draws"] == count


def test_an_installed_attack_keeps_its_digest(toy: Path) -> None:
    spec = make_plan(RunRequest(attack="toyattack", **TOY)).spec
    assert spec.attack_code is None
    assert "attack_code" not in spec.digest_fields()


@pytest.mark.parametrize("command", [["show", "attack"], ["run", "--attack"]])
@pytest.mark.parametrize(
    ("address", "text", "told"),
    [
        ("absent.py:Guess", None, "there is no file absent.py"),
        ("guess.py", None, "name its class, guess.py:CLASS (attacks in it: Guess)"),
        ("guess.py:Gess", None, "has no attack 'Gess' (attacks in it: Guess)"),
        ("guess.py:torch", None, "has no attack 'torch'"),
        ("guess.py:Attack", None, "the class lacks reconstruct"),
        ("guess.py:Guess", ATTACK.replace('"guess"', '"toyattack"'), "calls itself 'toyattack', which is an attack of"),
        ("guess.py:Guess", ATTACK.replace('"guess"', '"../guess"'), "its name becomes a folder"),
        ("guess.py:Guess", ATTACK.replace("@dataclass(frozen=True, kw_only=True)", ""), "an attack is a dataclass"),
        ("guess.py:Guess", ATTACK.replace("    access:", "    excess:"), "it needs the class variable 'access'"),
        ("guess.py:Guess", "import nowhere_to_be_found\n", "needs module 'nowhere_to_be_found'"),
        ("guess.py:Guess", "def broken(:\n", "fails on import: SyntaxError: invalid syntax, line 1"),
        ("guess.py:Guess", "raise ValueError('first\\nsecond')\n", "fails on import: ValueError: second"),
        ("guess.py:Guess", "import sys\nsys.exit(0)\n", "ends the program on import (sys.exit(0))"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    toy: Path, place: Path, command: list[str], address: str, text: str | None, told: str
) -> None:
    if text is not None:
        (place / "guess.py").write_text(text)
    done = CliRunner().invoke(cli, [*command, address])
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert told in lines[0]
    assert not (place / "runs").exists()


def test_what_a_file_prints_is_no_part_of_the_output(toy: Path, place: Path) -> None:
    (place / "guess.py").write_text(f"print('loaded')\n{ATTACK}")
    done = CliRunner().invoke(cli, ["show", "attack", "guess.py:Guess", "--json"])
    assert json.loads(done.stdout)["settings"]["draws"] == 6
    assert "loaded" in done.stderr


def plugin(folder: Path, catalogue: str = '{"attack": {"guess": "guessing.attack:Guess"}}') -> Path:
    package = folder / "guessing"
    package.mkdir()
    (package / "__init__.py").write_text(f"CATALOGUE = {catalogue}\n")
    (package / "attack.py").write_text(ATTACK)
    return package


def test_a_catalogue_from_a_folder_is_listed_and_runs(toy: Path, place: Path) -> None:
    package = plugin(place)
    done = CliRunner().invoke(cli, ["list", "attacks", "--plugin", str(package)])
    assert "guess" in done.output.split()
    words = ["run", "--plugin", "guessing", "--attack", "guess", "--target", "toynet", "--dataset", "toyfaces"]
    done = CliRunner().invoke(cli, [*words, "--protocol", "toy", "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    found = open_run(json.loads(done.stdout)["path"])
    assert len(found.specification["attack_code"]) == 64
    (package / "attack.py").write_text(ATTACK.replace("in no order", "in any order"))
    assert make_plan(RunRequest(attack="guess", **TOY)).spec.digest() != found.record["digest"]


def test_a_catalogue_from_a_file_is_a_plugin_too(toy: Path, place: Path) -> None:
    (place / "guess.py").write_text(f'{ATTACK}\nCATALOGUE = {{"attack": {{"guess": "guess:Guess"}}}}\n')
    registry.add_plugin("guess.py")
    registry.add_plugin("./guess.py")
    assert plugins.added() == (str(place / "guess.py"),)
    entry = registry.entry("attack", "guess")
    assert (entry.distribution, entry.installed) == ("plugin guess.py", False)
    assert entry.load().name == "guess"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("absent", "expected a package folder or a .py file, there is none"),
        ("guess.py", "it has no CATALOGUE"),
        (".", "it has no __init__.py, so it is no package; name the package in it"),
        ("json", "another module is called 'json'"),
        ("failing", "fails on import: RuntimeError: no"),
        ("taker", "two distributions register the attack 'toyattack'"),
        ("odd", "registers the unknown kind 'atack'; did you mean 'attack'"),
    ],
)
def test_anything_but_a_plugin_is_refused_in_one_line(toy: Path, place: Path, path: str, told: str) -> None:
    plugin(place)
    bodies = {
        "json": "CATALOGUE = {}",
        "failing": "raise RuntimeError('no')",
        "taker": 'CATALOGUE = {"attack": {"toyattack": "taker:X"}}',
        "odd": 'CATALOGUE = {"atack": {}}',
    }
    if path in bodies:
        (place / path).mkdir()
        (place / path / "__init__.py").write_text(bodies[path] + "\n")
    done = CliRunner().invoke(cli, ["list", "attacks", "--plugin", path])
    assert done.exit_code == 2, done.output
    assert done.stderr.count("error:") == 1
    assert told in done.stderr
